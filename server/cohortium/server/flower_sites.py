"""Flower as one implementation of `Sites`: bytes to each site, bytes back as they arrive.

What is large travels in chunks (`common/parcel.py`): those of a body that goes to several sites
are at the SuperLink once. A message may be lost without anybody saying so, with a site that was
killed or an answer that a broken connection swallowed: it is sent again, which costs next to
nothing while its chunks are there, and a site takes it for one.
"""

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from flwr.app import ConfigRecord
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.runtime_pb2 import (
    PullAppMessagesRequest,
    PushAppMessagesRequest,
    PushAppMessagesResponse,
)

from cohortium.common import timeouts
from cohortium.common.errors import ProtocolError, UnreachableError
from cohortium.common.parcel import Assembly, Chunks
from cohortium.server.flower_objects import SUPERLINK, Request, record_of
from cohortium.server.flower_run import Run
from cohortium.server.superlink import SuperLink

POLL_SHARE = 0.05  # waiting adds at most this share to the time that the sites took
RESENDS = 4.0  # a short deadline leaves time to send again too
ANNOUNCEMENTS = 5
LISTED_AT_ONCE = 4_000  # chunks that one call announces; each costs some SQL statements
TRANSFERS = 4  # chunks at once between this process and the SuperLink
REPLY_FACTOR, REPLY_SLACK = 4, 2**24  # a reply is a model and some fields, as its request is


@dataclass(eq=False)
class _Asked:
    """A request that a site has not answered yet.

    Attributes:
        head: what made it this site's.
        patience_s: of silence until it is sent again.
        messages: ids of the messages that carried it; any may be answered.
        unanswered: those of them that no reply was announced to.
        activation: when the site's node went online that the last message was for.
        reply: objects of the reply that was announced last.
        probe: the chunk of the reply that was last found missing.
    """

    site: str
    head: bytes
    patience_s: float
    messages: list[str] = field(default_factory=list)
    unanswered: set[str] = field(default_factory=set)
    activation: str = ""
    resend_at: float = 0.0
    reply: ObjectTree | None = None
    probe: str = ""


class FlowerSites:
    """The sites of one study, reached through one run of the SuperLink.

    Use it from one thread; several at once, each in its own thread, do not disturb each other.

    Args:
        superlink: started and healthy.
        node_ids: Flower's node id of each site's name.

    Attributes:
        failures: why a site's last request ended without a reply: Flower's words, at most 200
            characters of them.

    Raises:
        UnreachableError: the run could not be started.
    """

    def __init__(self, superlink: SuperLink, node_ids: Mapping[str, int]) -> None:
        _quiet_flower()
        self.failures: dict[str, str] = {}
        self._superlink = superlink
        self._node_ids = dict(node_ids)
        self._hurried = threading.Event()
        self._asked: dict[str, _Asked] = {}
        self._states: dict[int, tuple[str, str]] = {}
        self._look_at = 0.0
        self._chunks: Chunks | None = None
        self._run = Run(superlink)
        self.run_id = self._run.id

    def ask(
        self, heads: Mapping[str, bytes], body: bytes, deadline_s: float
    ) -> Iterator[tuple[str, bytes]]:
        """Send each site its own head and the body; yield (site, reply) as they arrive.

        Ends when every site has replied or failed, soon after the first did, and silently at the
        deadline. A site that failed is skipped and its reason put into `failures`. Asking again
        with the same heads and body goes on waiting for what is on its way, and sends again what
        failed or was answered.

        Args:
            heads: by site name; every name is one of `node_ids`.
            body: follows each head.
            deadline_s: seconds from now.

        Raises:
            UnreachableError: the run was stopped, or the SuperLink was away until the deadline.
        """
        started = time.monotonic()
        deadline = started + deadline_s
        for site in [s for s, asked in self._asked.items() if heads.get(s) != asked.head]:
            self._withdraw(site)
        for site in heads:
            self.failures.pop(site, None)
        chunks, limit = self._chunks_of(body), REPLY_FACTOR * len(body) + REPLY_SLACK
        waiting, turn_ends = set(heads), deadline
        while waiting:
            self._send({site: heads[site] for site in waiting}, chunks, deadline)
            self._listen(waiting, deadline)
            arrived = False
            for site in [s for s in heads if s in waiting & self._asked.keys()]:
                reply = self._fetch(site, limit, deadline)
                if reply is not None:
                    arrived = True
                    waiting.discard(site)
                    yield site, reply
                    del reply  # before the next one is put together
            waiting -= self.failures.keys()
            now = time.monotonic()
            if waiting != heads.keys():
                turn_ends = min(turn_ends, now + timeouts.ASKER_TURN_S)
            if now >= turn_ends or self._hurried.is_set():
                break
            if waiting and not arrived:
                pause_s = min(
                    max((now - started) * POLL_SHARE, timeouts.REPLY_POLL_S[0]),
                    timeouts.REPLY_POLL_S[1],
                )
                self._run.wait(min(pause_s, turn_ends - now))
        self._hurried.clear()
        if time.monotonic() >= deadline:
            for site in list(self._asked):
                self._withdraw(site)
        if not self._asked:
            self._chunks = None

    def hurry(self) -> None:
        """Make a running `ask`, or the next one, end early, as at its deadline; from any thread."""
        self._hurried.set()

    def close(self, completed: bool) -> None:
        """End the run, as completed or as failed; idempotent."""
        self._run.close(completed)

    def _chunks_of(self, body: bytes) -> Chunks:
        """The body's chunks: the same again while somebody is still asked it."""
        if self._chunks is None or self._chunks.body is not body:
            self._chunks = Chunks(body)
        return self._chunks

    def _send(self, heads: Mapping[str, bytes], chunks: Chunks, deadline: float) -> None:
        """Send what was not sent yet, or may be lost."""
        self._look(heads)
        now = time.monotonic()
        due = {}
        for site, head in heads.items():
            asked = self._asked.get(site)
            state, _ = self._states.get(self._node_ids[site], ("online", ""))
            if state != "online":
                self.failures[site] = f"the site is {state}"
            elif asked is None or now >= asked.resend_at:
                due[site] = head
        batch = max(LISTED_AT_ONCE // (len(chunks.ids) + 1), 1)
        names = list(due)
        for start in range(0, len(names), batch):
            part = {site: due[site] for site in names[start : start + batch]}
            self._push(part, chunks, deadline)

    def _look(self, sites: Mapping[str, bytes]) -> None:
        """Which sites are there; whoever went online anew has lost what it was sent."""
        if time.monotonic() < self._look_at and all(site in self._asked for site in sites):
            return
        self._look_at = time.monotonic() + timeouts.WATCH_S
        try:
            self._states = self._superlink.activations()
        except UnreachableError:
            return  # whoever asks something of it will say so
        for site in [site for site in sites if site in self._asked]:
            _, activation = self._states.get(self._node_ids[site], ("", ""))
            if activation != self._asked[site].activation:
                self._asked[site].resend_at = 0.0

    def _push(self, heads: Mapping[str, bytes], chunks: Chunks, deadline: float) -> None:
        """Send to these sites; what the SuperLink does not take is a failure."""
        ttl_s = deadline + timeouts.LATE_S - time.monotonic()
        made = [
            Request(self._node_ids[site], self.run_id, head, chunks, ttl_s)
            for site, head in heads.items()
        ]
        request = PushAppMessagesRequest(
            messages_list=[one.proto for one in made],
            message_object_trees=[one.tree for one in made],
        )
        objects = {name: content for one in made for name, content in one.objects.items()}
        for _ in range(ANNOUNCEMENTS):
            announced = self._run.call("PushMessages", request, deadline)
            if self._upload(announced, objects, chunks, deadline):
                break
        for site, message_id in zip(heads, announced.message_ids, strict=True):
            self._note(site, heads[site], str(message_id or ""), deadline)

    def _note(self, site: str, head: bytes, message_id: str, deadline: float) -> None:
        if not message_id:
            self.failures[site] = "the SuperLink did not take the request"
            return
        now = time.monotonic()
        patience_s = min(timeouts.RESEND_S, (deadline - now) / RESENDS)
        asked = self._asked.setdefault(site, _Asked(site, head, patience_s))
        _, asked.activation = self._states.get(self._node_ids[site], ("", ""))
        asked.resend_at = now + asked.patience_s
        asked.patience_s *= 2
        asked.messages.append(message_id)
        asked.unanswered.add(message_id)

    def _upload(
        self,
        announced: PushAppMessagesResponse,
        objects: Mapping[str, bytes],
        chunks: Chunks,
        deadline: float,
    ) -> bool:
        """Upload what the SuperLink does not have yet; False where it has forgotten some."""

        def push(name: str) -> bool:
            request = PushObjectRequest(
                node=SUPERLINK,
                run_id=self.run_id,
                object_id=name,
                object_content=objects.get(name) or chunks.content(name),
                session_id=announced.session_id,
            )
            return bool(self._run.call("PushObject", request, deadline).stored)

        wanted = set(announced.objects_to_push)
        stored = [push(name) for name in objects if name in wanted]
        with ThreadPoolExecutor(TRANSFERS) as pool:
            stored += pool.map(push, [name for name in chunks.names() if name in wanted])
        return all(stored)

    def _listen(self, waiting: set[str], deadline: float) -> None:
        """Note who has announced a reply, and who failed.

        The SuperLink's own record says which request that is for, not the reply, which a hostile
        site may have written as it likes.
        """
        sites = {
            message_id: site
            for site, asked in self._asked.items()
            if site in waiting
            for message_id in asked.unanswered
        }
        if not sites:
            return
        request = PullAppMessagesRequest(message_ids=list(sites))
        reply = self._run.call("PullMessages", request, deadline)
        for proto, tree in zip(reply.messages_list, reply.message_object_trees, strict=True):
            message_id = proto.metadata.reply_to_message_id
            asked = self._asked.get(sites.get(message_id, ""))
            if asked is None:
                continue
            asked.unanswered.discard(message_id)
            if proto.HasField("error"):
                reason = _one_line(f"{proto.error.code}: {proto.error.reason}")
                if proto.metadata.src_node_id == SUPERLINK.node_id:
                    self._lose(asked, reason)
                else:
                    self._fail(asked.site, reason)
                continue
            self._discard(asked)
            asked.reply, asked.probe = tree, ""
            asked.resend_at = max(asked.resend_at, time.monotonic() + timeouts.STALLED_S)

    def _fetch(self, site: str, limit: int, deadline: float) -> bytes | None:
        """A site's reply, once all of it is there; or None, and in `failures` why it never is."""
        tree = self._asked[site].reply
        if tree is None:
            return None
        try:
            reply = self._assemble(self._asked[site], tree, limit, deadline)
        except UnreachableError:
            raise
        except Exception as error:  # the boundary: a hostile site may upload anything
            said = error if isinstance(error, ProtocolError) else type(error).__name__
            self._fail(site, _one_line(f"the reply cannot be read ({said})"))
            return None
        if reply is not None:
            self._withdraw(site)
        return reply

    def _assemble(
        self, asked: _Asked, tree: ObjectTree, limit: int, deadline: float
    ) -> bytes | None:
        """Put a reply together; None where a part of it is still on its way.

        One buffer exists at a time: a reply that is not complete is left where it is.
        """
        record_id, names = record_of(tree)
        content = self._pull(record_id, deadline)
        if not content:
            return None
        whole = Assembly(dict(ConfigRecord.inflate(content)), names, limit)
        if not whole.names:
            return whole.payload()
        asked.probe = asked.probe or whole.names[-1]
        probe = self._pull(asked.probe, deadline)
        if not probe:
            return None
        whole.put(asked.probe, probe)
        missing: list[str] = []

        def fetch(name: str) -> None:
            chunk = b"" if missing else self._pull(name, deadline)
            if chunk:
                whole.put(name, chunk)
            else:
                missing.append(name)

        with ThreadPoolExecutor(TRANSFERS) as pool:
            list(pool.map(fetch, [name for name in whole.names if name != asked.probe]))
        if missing:
            asked.probe = missing[0]
            return None
        return whole.payload()

    def _pull(self, object_id: str, deadline: float) -> bytes:
        """An object's content; nothing where it is not there yet.

        Raises:
            ProtocolError: nobody will ever upload it.
        """
        request = PullObjectRequest(node=SUPERLINK, run_id=self.run_id, object_id=object_id)
        reply = self._run.call("PullObject", request, deadline)
        if not reply.object_found:
            raise ProtocolError("a part of it was withdrawn")
        return bytes(reply.object_content)

    def _lose(self, asked: _Asked, reason: str) -> None:
        """The SuperLink has given a message up; its chunks stay, for the site may come back."""
        asked.resend_at = self._look_at = 0.0
        if not asked.unanswered and asked.reply is None:
            self.failures[asked.site] = reason

    def _fail(self, site: str, reason: str) -> None:
        self.failures[site] = reason
        self._withdraw(site)

    def _withdraw(self, site: str) -> None:
        """Forget a request and its reply, here and at the SuperLink; nobody can fetch it now."""
        asked = self._asked.pop(site)
        self._discard(asked)
        for message_id in asked.messages:
            self._delete(message_id)

    def _discard(self, asked: _Asked) -> None:
        """A reply that another one has replaced, or that was read."""
        if asked.reply is not None:
            self._delete(asked.reply.object_id)

    def _delete(self, root: str) -> None:
        request = ConfirmMessageReceivedRequest(
            node=SUPERLINK, run_id=self.run_id, message_object_id=root
        )
        try:
            self._run.call("ConfirmMessageReceived", request, time.monotonic())
        except UnreachableError:
            pass  # what is left ends with the run


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]


def _quiet_flower() -> None:
    """Keep Flower off the terminal; its warnings may go where ours go."""
    logger = logging.getLogger("flwr")
    logger.handlers = [logging.NullHandler()]
    logger.setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)
