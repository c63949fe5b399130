"""Take a logging configuration from the network, log by it, and stop listening."""

import logging
import logging.config
import sys

listener = logging.config.listen(0)
listener.start()
listener.ready.wait()  # type: ignore[attr-defined]
print("port", listener.port, flush=True)  # type: ignore[attr-defined]
sys.stdin.readline()
logging.getLogger("program").info("configured from outside")
logging.config.stopListening()
listener.join()
print("stopped")
