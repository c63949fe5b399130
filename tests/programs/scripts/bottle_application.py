"""An application that bottle's command line serves."""

from bottle import Bottle, HTTPResponse, request

application = Bottle()


@application.get("/hello/<name>")  # type: ignore[untyped-decorator]
def greet(name: str) -> str:
    """Answer with a part of the path."""
    return f"hello {name}"


@application.post("/echo")  # type: ignore[untyped-decorator]
def echo() -> HTTPResponse:
    """Answer with the body."""
    return HTTPResponse(request.body.read(), status=201, X_Length=str(request.content_length))
