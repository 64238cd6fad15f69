"""An address in, exit code 0 out if it answers 200: the health check of a container."""  # noqa: INP001  (a script, no package)

import os
import ssl
import sys
import urllib.request

TIMEOUT_S = 5


def main() -> None:
    """Ask the address that is given, else a worker's /live."""
    port = os.environ.get("ECHOWATCH_WORKER__PORT", "8620")
    url = sys.argv[1] if len(sys.argv) > 1 else f"http://127.0.0.1:{port}/live"
    # The stack's own authority: the host is checked, too.
    trusted = ssl.create_default_context(cafile=os.environ.get("HEALTH_CA_FILE"))
    # What it asks is in this container: Docker's proxy for the world does not know it.
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusted)
    )
    try:
        opener.open(url, timeout=TIMEOUT_S).close()
    except OSError as error:
        sys.exit(f"{url}: {error}")


if __name__ == "__main__":
    main()
