"""Django's admin, opened by the role ``admin``; no flag has to be set by hand."""

from __future__ import annotations

from functools import wraps
from typing import Any

from django.contrib.admin import AdminSite
from django.contrib.admin.options import TO_FIELD_VAR
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import SuspiciousOperation
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from drakkar_site.accounts.roles import is_admin


class RoleSite(AdminSite):
    """Asks for the user's role; the scope of session or token was asked before."""

    site_header = site_title = "Drakkar"
    index_title = "Users, tokens and the history's tables"
    enable_nav_sidebar = False  # the site's own frame leads everywhere

    def register(self, model_or_iterable: Any, admin_class: Any = None, **options: Any) -> None:
        """Every list comes fifty at a time, as the site's own do."""
        super().register(model_or_iterable, admin_class, **{"list_per_page": 50, **options})

    def has_permission(self, request: HttpRequest) -> bool:
        """Return the role, or Django's own staff flag; active users only."""
        return is_admin(request.user) or super().has_permission(request)

    def admin_view(self, view: Any, cacheable: bool = False) -> Any:
        """Django's, but for an empty ``_to_field``, at which its change pages fail: 400."""
        inner = super().admin_view(view, cacheable)

        @wraps(inner)
        def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            if "" in (request.GET.get(TO_FIELD_VAR), request.POST.get(TO_FIELD_VAR)):
                raise SuspiciousOperation(f"{TO_FIELD_VAR}: expected a field, got nothing")
            return inner(request, *args, **kwargs)

        return checked

    def login(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """There is one login page, with one throttle: the site's."""
        index = reverse("admin:index", current_app=self.name)
        if self.has_permission(request):
            return HttpResponseRedirect(index)
        return redirect_to_login(request.GET.get("next", index))
