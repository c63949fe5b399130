"""A DICOM entity that can be verified, until a line arrives on standard input."""

import sys

from pynetdicom import AE, evt

VERIFICATION = "1.2.840.10008.1.1"
verified: list[str] = []


def note(event: evt.Event) -> int:
    """Count a verification, and answer that it went well."""
    verified.append(event.assoc.requestor.ae_title)
    return 0


entity = AE("SERVER")
entity.add_supported_context(VERIFICATION)
server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_ECHO, note)])
assert server is not None
print("port", server.server_address[1])
sys.stdin.readline()
server.shutdown()
print(f"verified {len(verified)}, shut down")
