"""The topics of cases and snapshots in, a store that holds their newest messages out.

A thread of its own reads both from their beginning and goes on; while Kafka is away the store keeps
what it has. Nothing is written, no consumer group is left behind.
"""

import logging
import threading
import time
from typing import Final

from connectors.kafka import spans
from connectors.kafka_access import Access, AccessError, KafkaTrouble
from connectors.kafka_follow import Follower, following
from pipeline.serve.store import SnapshotStore
from pipeline.service_settings import Kafka
from pipeline.streaming.endpoints import Verdict

log = logging.getLogger(__name__)

AGAIN_S: Final = 2.0
# A client of Kafka does not tell that the broker has gone: it is asked.
ASK_S: Final = 15.0


class Feed:
    """Keeps a store as the topics are.

    Args:
        access: Address and identity.
        kafka: Names of the topics.
        store: To be filled.
    """

    def __init__(self, access: Access, kafka: Kafka, store: SnapshotStore) -> None:
        self._access = access
        self._topics = (kafka.alarms, kafka.snapshots)
        self._cases = kafka.alarms
        self._store = store
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
        self._trouble = ""
        self._whole = False

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self, patience_s: float = 5.0) -> None:
        """End; may be called without a start."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(patience_s)

    def verdict(self) -> Verdict:
        """Whether the store is as the topics are."""
        reasons = [self._trouble] if self._trouble else []
        if not self._whole:
            reasons.append("the topics have not been read to their end yet")
        return Verdict(ok=not reasons, reasons=tuple(reasons), facts=self._store.facts())

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                self._follow()
            except (KafkaTrouble, AccessError) as trouble:
                text = str(trouble)
                if text != self._trouble:
                    log.warning("reading again in %g s: %s", AGAIN_S, text)
                self._trouble = text
                self._ending.wait(AGAIN_S)
            except Exception:
                # Without this thread the pages would be old for ever, and nobody would know.
                log.exception("reading again in %g s", AGAIN_S)
                self._trouble = "reading has failed: see the log"
                self._ending.wait(AGAIN_S)

    def _follow(self) -> None:
        with following(self._access, self._topics, whole=True) as follower:
            self._trouble = ""
            places = set(spans(self._access, self._topics))
            asked_s = time.monotonic()
            while not self._ending.is_set():
                self._take(follower)
                if time.monotonic() - asked_s > ASK_S:
                    asked_s = time.monotonic()
                    if set(spans(self._access, self._topics)) != places:
                        return  # more partitions: begin again

    def _take(self, follower: Follower) -> None:
        for heard in follower.poll():
            if heard.topic == self._cases:
                self._store.put_case(heard.key, heard.value)
            else:
                self._store.put_snapshot(heard.key, heard.value)
        self._whole = self._whole or follower.caught_up()
