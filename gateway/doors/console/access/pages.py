"""The pages of keys, tenants and the audit log, in the order of the navigation."""

from gateway.doors.console.access.audit import AUDIT_PAGES
from gateway.doors.console.access.keys import KEYS_PAGES
from gateway.doors.console.access.tenants import TENANTS_PAGES

ACCESS_PAGES = (*KEYS_PAGES, *TENANTS_PAGES, *AUDIT_PAGES)
