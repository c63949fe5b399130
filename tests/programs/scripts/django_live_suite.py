"""A test suite that uses Django's live server; it is run by `test_django.py`."""

import socketserver
import unittest
import urllib.request

import django
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.test import LiveServerTestCase
from django.urls import path


def greet(_: HttpRequest) -> HttpResponse:
    """Answer."""
    return HttpResponse("hello")


urlpatterns = [path("", greet)]
settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=["django.contrib.staticfiles"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="unused",
    STATIC_URL="/static/",
    USE_TZ=True,
)
django.setup()


class LiveServer(LiveServerTestCase):  # type: ignore[misc]
    """Each class of tests has a server in a thread."""

    def test_implementation(self) -> None:
        """Say whose server this is."""
        assert isinstance(self.server_thread.httpd, socketserver.BaseServer)

    def test_request(self) -> None:
        """Be a client."""
        with urllib.request.urlopen(self.live_server_url, timeout=20) as response:
            assert response.read() == b"hello"


class SecondLiveServer(LiveServer):
    """The first one has been shut down by now."""


if __name__ == "__main__":
    unittest.main(verbosity=2)
