"""A Django project in one file; its arguments are those of `manage.py`."""

import logging
import sys
import warnings
from pathlib import Path

from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

GREETING = "first edition"


def is_about_this_file(record: logging.LogRecord) -> bool:
    """Say whether the reloader speaks of this file: it has some words for every module."""
    return Path(__file__).name in record.getMessage()


LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"this file": {"()": lambda: is_about_this_file}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "filters": ["this file"]}},
    "loggers": {"django.utils.autoreload": {"level": "DEBUG", "handlers": ["stderr"]}},
}
"""Makes the reloader say when it has seen this file, so that a later change is one to it."""


def greet(_: HttpRequest) -> HttpResponse:
    """Answer with what the reloader test changes in this file."""
    return HttpResponse(GREETING)


@csrf_exempt  # type: ignore[untyped-decorator]
def echo(request: HttpRequest) -> HttpResponse:
    """Answer with the method and the body."""
    return HttpResponse(request.method.encode() + b" " + request.body, status=201)


def stream(_: HttpRequest) -> StreamingHttpResponse:
    """Answer in many pieces whose total length nobody knows beforehand."""
    return StreamingHttpResponse(b"piece %d\n" % number for number in range(1000))


def fail(_: HttpRequest) -> HttpResponse:
    """Raise."""
    raise RuntimeError("this view fails")


if __name__ == "__main__":
    # Under the reloader a daemon thread serves, and may or may not live to close its sockets.
    warnings.simplefilter("ignore", ResourceWarning)
    settings.configure(
        ALLOWED_HOSTS=["*"],
        DEBUG=True,
        INSTALLED_APPS=["django.contrib.staticfiles"],
        LOGGING=LOGGING,
        MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
        ROOT_URLCONF=__name__,
        SECRET_KEY="unused",
        STATICFILES_DIRS=[Path.cwd() / "static"],
        STATIC_URL="/static/",
        USE_TZ=True,
    )
    urlpatterns = [
        path("", greet),
        path("echo", echo),
        path("stream", stream),
        path("fail", fail),
    ]
    execute_from_command_line(sys.argv)
