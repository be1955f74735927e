"""A request as Flower's objects: a message, its record dictionary, its record, and its chunks."""

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)

from cohortium.common.errors import ProtocolError
from cohortium.common.parcel import MAX_CHUNKS, Chunks

PAYLOAD = "payload"  # the record's name, at both ends
MESSAGE_TYPE = "query.cohortium"
SUPERLINK = Node(node_id=SUPERLINK_NODE_ID)


class Request:
    """A message to one site.

    Args:
        node_id: of the site.
        head: precedes the chunks' body in what the site gets.
        ttl_s: how long a reply to it is taken.

    Attributes:
        objects: content by id, in the order in which they are wanted; the chunks aside.
        tree, proto: what announces it.
    """

    def __init__(
        self, node_id: int, run_id: int, head: bytes, chunks: Chunks, ttl_s: float
    ) -> None:
        content = RecordDict({PAYLOAD: ConfigRecord(dict(chunks.record(head)))})
        message = Message(content, dst_node_id=node_id, message_type=MESSAGE_TYPE, ttl=ttl_s)
        with no_object_id_recompute():
            message.metadata.__dict__["_run_id"] = run_id
            message.metadata.__dict__["_src_node_id"] = SUPERLINK_NODE_ID
            message.metadata.__dict__["_message_id"] = message.object_id
            self.tree = get_object_tree(message)
            nested = get_all_nested_objects(message)
            self.objects = {name: thing.deflate() for name, thing in nested.items()}
            self.proto = message_to_proto(remove_content_from_message(message))
        record = self.tree.children[0].children[0]
        record.children.extend(ObjectTree(object_id=name) for name in chunks.names())


def record_of(tree: ObjectTree) -> tuple[str, frozenset[str]]:
    """The object that a payload starts with, and the names of its chunks.

    Raises:
        ProtocolError: another tree than a payload's.
    """
    for _ in ("the record dictionary", "the record"):
        if len(tree.children) != 1:
            raise ProtocolError("not one block of bytes")
        tree = tree.children[0]
    if len(tree.children) > MAX_CHUNKS or any(chunk.children for chunk in tree.children):
        raise ProtocolError("not one block of bytes")
    return str(tree.object_id), frozenset(str(chunk.object_id) for chunk in tree.children)
