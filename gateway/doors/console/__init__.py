"""The console: web pages that show the gateway to people.

It translates and authenticates, nothing else. A page asks the gateway's own gRPC services as the
person that looks at it, so that roles and tenants are those of the API.

To add a page:

1. Write a module in `pages/` (or in a folder of its own for a subject with several pages) with an
   async function that takes a `Visit` and returns the answer, mostly `visit.page(TEMPLATE, ...)`.
   It calls `visit.calls.usage.GetSpend(request, **visit.rpc)` and the like; an error of the RPC
   needs no code, the door shows it.
2. Write its template in `templates/`: `{% extends "layout.html" %}`, with the blocks `title` and
   `content`. Values are escaped; `filters.py` has the formats of money, tokens, times. A part that
   refreshes itself stands in a template of its own: see `live` in `routes.py` and
   `templates/fleet.html`.
3. Add a `Page` to the list of its module (path, function, roles, name in the navigation), and the
   list to `pages/__init__.py`. A form posts to a `Page` with `method="POST"`; its template begins
   with `{{ csrf_field() }}`, and the function reads `visit.form`.

There are no inline scripts and styles: the content security policy forbids them. Styles are in
`static/console.css`, the script in `static/console.js`.
"""
