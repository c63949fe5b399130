"""pynetdicom's verification server: a threaded server with hooks of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from program import SCRIPTS

if TYPE_CHECKING:
    from program import Both, Program

pynetdicom = pytest.importorskip("pynetdicom", reason="pynetdicom is not installed")
VERIFICATION = "1.2.840.10008.1.1"


def test_echo(both: Both) -> None:
    """Several associations at a time, each verified; then the server is shut down."""
    both.start(SCRIPTS / "serve_dicom.py", ready=r"port (\d+)")

    def verify(program: Program) -> list[int]:
        entity = pynetdicom.AE("CLIENT")
        entity.add_requested_context(VERIFICATION)
        associations = [entity.associate("127.0.0.1", program.port) for _ in range(3)]
        statuses = [each.send_c_echo().Status for each in associations]
        for association in associations:
            association.release()
        entity.shutdown()
        return statuses

    assert both.ask(verify) == [0, 0, 0]
    both.say("stop")
    both.ask(lambda program: program.wait_for(r"verified (\d+), shut down")[1])
    assert both.wait() == 0
