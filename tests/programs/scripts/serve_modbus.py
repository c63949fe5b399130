"""A Modbus server with a few registers, which stops when a line arrives on standard input."""

import sys

from pyModbusTCP.server import ModbusServer

server = ModbusServer("127.0.0.1", 0, no_block=True)
server.data_bank.set_holding_registers(0, [1, 2, 3])
server.start()
print("port", server._service.server_address[1])
sys.stdin.readline()
server.stop()
print("running", server.is_run)
