"""The pages of the console, in the order of the navigation."""

from gateway.doors.console.access.pages import ACCESS_PAGES
from gateway.doors.console.money.pages import MONEY_PAGES
from gateway.doors.console.pages.batches import BATCH_PAGES
from gateway.doors.console.pages.fleet import FLEET_PAGES
from gateway.doors.console.pages.models import MODELS_PAGES
from gateway.doors.console.pages.overview import OVERVIEW_PAGES
from gateway.doors.console.pages.request import REQUEST_PAGES
from gateway.doors.console.pages.requests import REQUESTS_PAGES

PAGES = (
    *(*OVERVIEW_PAGES, *FLEET_PAGES, *MODELS_PAGES),
    *(*REQUESTS_PAGES, *REQUEST_PAGES, *BATCH_PAGES),
    *(*MONEY_PAGES, *ACCESS_PAGES),
)
