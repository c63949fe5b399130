"""The demo application of `wsgiref`, which answers with all that it is told."""

from wsgiref.simple_server import demo_app, make_server

with make_server("127.0.0.1", 0, demo_app) as server:
    print("port", server.server_port)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("interrupted")
