"""Faust's recovery of tables, that goes on where Kafka goes away in its midst.

Faust (0.15) takes a question that Kafka does not answer in time for the end of the service: it
leaves its loop without a word, and the app waits for its state for ever. An error of the client
ends the app. Here both begin the recovery of this assignment anew.
"""

import asyncio
import logging
from typing import Any, Final

from aiokafka.errors import IllegalStateError, KafkaError
from faust.tables.manager import TableManager
from faust.tables.recovery import RebalanceAgain, Recovery, ServiceStopped

log = logging.getLogger(__name__)

# What Faust itself says stays under its own name, and is filtered with the rest of it.
FAUST_LOG: Final = logging.getLogger("faust.tables.echowatch")
AGAIN_S: Final = 0.5


class _Recovery(Recovery):
    """Begins anew where Faust's would end."""

    logger = FAUST_LOG

    async def _wait(self, coro: Any, timeout: Any = None) -> None:  # noqa: ASYNC109  (Faust's signature)
        try:
            await super()._wait(coro, timeout=timeout)
        except ServiceStopped:
            if self.should_stop or self.crashed or self.app.should_stop:
                raise
            await self._again("no answer in time")
        except IllegalStateError:
            raise  # another assignment is on its way: Faust waits for it
        except (KafkaError, OSError, TimeoutError) as error:
            await self._again(repr(error))

    async def _again(self, why: str) -> None:
        log.warning("asking for the state anew: %s", why)
        await asyncio.sleep(AGAIN_S)
        self.signal_recovery_start.set()
        raise RebalanceAgain


class Tables(TableManager):
    """Tables that are recovered so."""

    logger = FAUST_LOG

    @property
    def recovery(self) -> Recovery:
        """What reads the changelog."""
        if self._recovery is None:
            self._recovery = _Recovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery
