"""The pages of money, in the order of the navigation."""

from gateway.doors.console.money.budgets import BUDGETS_PAGES
from gateway.doors.console.money.models_by_week import MODELS_BY_WEEK_PAGES
from gateway.doors.console.money.month import MONTH_PAGES
from gateway.doors.console.money.now import NOW_PAGES
from gateway.doors.console.money.prices import PRICES_PAGES
from gateway.doors.console.money.rates import RATES_PAGES
from gateway.doors.console.money.spend import SPEND_PAGES
from gateway.doors.console.money.statement import STATEMENT_PAGES

MONEY_PAGES = (
    *NOW_PAGES,
    *MONTH_PAGES,
    *STATEMENT_PAGES,
    *SPEND_PAGES,
    *RATES_PAGES,
    *MODELS_BY_WEEK_PAGES,
    *BUDGETS_PAGES,
    *PRICES_PAGES,
)
