"""A request that came and its reply as Flower's objects: message, dictionary, record, chunks."""

from dataclasses import dataclass

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.error import Error
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)

from cohortium.common.parcel import MAX_CHUNKS, Chunks

PAYLOAD = "payload"  # the record's name, at both ends


@dataclass(frozen=True, eq=False)
class Delivery:
    """A request that was announced to this site; its content is still at the coordinator.

    Attributes:
        message: who asks, in which run; no content.
        record_id: object id of the content; the same for the same request sent again.
        chunks: names of the chunks that belong to it.
    """

    message: Message
    record_id: str
    chunks: frozenset[str]


def delivered(pulled: PullMessagesResponse) -> Delivery | None:
    """What a pull for messages brought; None for nothing."""
    if not pulled.messages_list:
        return None
    record_id, chunks = _record_of(pulled.message_object_trees[0])
    return Delivery(message_from_proto(pulled.messages_list[0]), record_id, chunks)


class Reply:
    """A message's objects, and what announces them.

    Attributes:
        id: of the message itself.
        objects: content by id, in the order in which they are wanted; the chunks aside.
        tree, proto: what announces it.
    """

    def __init__(self, asked: Message, answer: bytes | Error) -> None:
        self.chunks = Chunks(answer if isinstance(answer, bytes) else b"")
        self.run_id = int(asked.metadata.run_id)
        with no_object_id_recompute():
            message = self._message(asked, answer)
            self.id = message.object_id
            message.metadata.__dict__["_message_id"] = self.id
            self.tree = get_object_tree(message)
            nested = get_all_nested_objects(message)
            self.objects = {name: thing.deflate() for name, thing in nested.items()}
            bare = remove_content_from_message(message) if message.has_content() else message
            self.proto = message_to_proto(bare)
        if self.chunks.ids:
            record = self.tree.children[0].children[0]
            record.children.extend(ObjectTree(object_id=name) for name in self.chunks.names())

    def _message(self, asked: Message, answer: bytes | Error) -> Message:
        if isinstance(answer, Error):
            return Message(answer, reply_to=asked)
        record = ConfigRecord(dict(self.chunks.record()))
        return Message(RecordDict({PAYLOAD: record}), reply_to=asked)


def _record_of(tree: ObjectTree) -> tuple[str, frozenset[str]]:
    """The object that a payload starts with, and its chunks; no object where there is none."""
    for _ in ("the record dictionary", "the record"):
        if len(tree.children) != 1:
            return "", frozenset()
        tree = tree.children[0]
    if len(tree.children) > MAX_CHUNKS or any(chunk.children for chunk in tree.children):
        return "", frozenset()
    return str(tree.object_id), frozenset(str(chunk.object_id) for chunk in tree.children)
