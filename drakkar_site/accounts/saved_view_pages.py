"""``/history/views``: save the filters of the history under a name; rename, share and delete."""

from __future__ import annotations

from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST

from domain.text_bounds import text_in
from drakkar_site.accounts.models import MAX_VIEW_NAME, SavedView
from drakkar_site.accounts.saved_views import (
    MOST_VIEWS,
    OVERRULING,
    SHARING,
    change,
    delete,
    save,
    views_of,
)
from workers.control import SCOPES

ACTIONS = ("change", "delete")


@require_http_methods(["GET", "HEAD", "POST"])
def saved_views(request: HttpRequest) -> HttpResponse:
    """List the views, or save one and lead to what it shows; what is wrong is said here."""
    if request.method != "POST":
        return _page(request)
    try:
        view = save(
            _reader(request),
            request.META[SCOPES],
            text_in(request.POST, "name"),
            text_in(request.POST, "query"),
            bool(request.POST.get("shared")),
        )
    except ValueError as exc:
        return _page(request, str(exc), 400)
    return HttpResponseRedirect(f"{reverse('history')}?{view.query}")


@require_POST
def saved_view(request: HttpRequest, view_id: int) -> HttpResponse:
    """Change or delete a view."""
    user, scopes = _reader(request), request.META[SCOPES]
    view = SavedView.objects.filter(pk=view_id).first()
    if view is None or not (view.is_shared or view.owner_id == user.pk):
        raise Http404("There is no such view; it may have been deleted")
    try:
        match action := text_in(request.POST, "action"):
            case "change":
                is_shared = bool(request.POST.get("shared"))
                change(user, scopes, view, text_in(request.POST, "name"), is_shared)
            case "delete":
                delete(user, scopes, view)
            case _:
                raise ValueError(f"action: expected {' or '.join(ACTIONS)}, got {action[:40]}")
    except ValueError as exc:
        return _page(request, str(exc), 400)
    return HttpResponseRedirect(reverse("saved_views"))


def _reader(request: HttpRequest) -> User:
    if not isinstance(request.user, User):
        raise PermissionDenied("Views are of people: sign in")
    return request.user


def _page(request: HttpRequest, error: str = "", status: int = 200) -> HttpResponse:
    scopes = request.META[SCOPES]
    context = {
        "views": views_of(_reader(request)),
        "may_share": SHARING in scopes,
        "may_overrule": OVERRULING in scopes,
        "max_name": MAX_VIEW_NAME,
        "most_views": MOST_VIEWS,
        "error": error,
    }
    return render(request, "saved_views/list.html", context, status=status)
