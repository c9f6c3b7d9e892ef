"""Every route of the control plane."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.auth.views import LogoutView
from django.urls import include, path, re_path
from django.views.generic import RedirectView

from drakkar_site.accounts.audit_page import audit
from drakkar_site.accounts.saved_view_pages import saved_view, saved_views
from drakkar_site.accounts.token_pages import revoke, tokens
from drakkar_site.api import api
from drakkar_site.config.page import config
from drakkar_site.palette import go
from drakkar_site.views import Login, api_missing, healthz
from recorder.pages.databases import ask, databases, download
from recorder.pages.history import history
from recorder.pages.history_export import export_history
from recorder.pages.trace import trace_page, trace_search
from sinks.pages.dead_letters import dead_letter, dead_letters
from sinks.pages.letter_actions import letter_job, letter_jobs, new_letter_job
from sinks.pages.letter_edit import edit_letter
from workers.control_plane.pages.control import control, control_new, controls
from workers.control_plane.pages.dashboard import dashboard
from workers.control_plane.pages.debug import debug
from workers.control_plane.pages.failures import change_failure, failure, failures
from workers.control_plane.pages.finding_marks import mark_finding, unmark_finding
from workers.control_plane.pages.letter_groups import letter_groups
from workers.control_plane.pages.live import live
from workers.control_plane.pages.many_partitions import many_partitions
from workers.control_plane.pages.notifications import notifications, test_notification
from workers.control_plane.pages.partitions import partition, partitions
from workers.control_plane.pages.probe import probe
from workers.control_plane.pages.reruns import cancel_rerun, new_rerun, rerun, reruns
from workers.control_plane.pages.sinks import sinks
from workers.control_plane.pages.task import task
from workers.control_plane.pages.topics import topics
from workers.control_plane.pages.trends import trend, trend_csv, trends
from workers.control_plane.pages.versions import versions
from workers.control_plane.pages.worker import worker
from workers.control_plane.pages.workers import workers

urlpatterns = [
    path("", dashboard, name="dashboard"),
    path("trends", trends, name="trends"),
    path("trends/<slug:key>.csv", trend_csv, name="trend_csv"),
    path("trends/<slug:key>", trend, name="trend"),
    path("workers", workers, name="workers"),
    path("workers/<str:cluster>/<path:worker>", worker, name="worker"),
    path("versions", versions, name="versions"),
    path("partitions", partitions, name="partitions"),
    path("partitions/<str:cluster>/<str:topic>/<int:number>", partition, name="partition"),
    path("sinks", sinks, name="sinks"),
    path("live", live, name="live"),
    path("history", history, name="history"),
    path("history/export", export_history, name="export_history"),
    path("history/views", saved_views, name="saved_views"),
    path("history/views/<int:view_id>", saved_view, name="saved_view"),
    path("trace", trace_search, name="trace_search"),
    path("trace/<str:topic>/<int:partition>:<int:offset>", trace_page, name="trace"),
    path("task/<str:cluster>/<str:task_id>", task, name="task"),
    path("debug", debug, name="debug"),
    path("debug/databases", databases, name="databases"),
    path("debug/databases/exports", ask, name="ask_export"),
    path("debug/databases/exports/<uuid:job_id>/file", download, name="download_export"),
    path("findings/mark", mark_finding, name="mark_finding"),
    path("findings/unmark", unmark_finding, name="unmark_finding"),
    path("notifications", notifications, name="notifications"),
    path("notifications/test", test_notification, name="test_notification"),
    path("control", controls, name="controls"),
    path("control/new", control_new, name="control_new"),
    path("control/partitions", many_partitions, name="many_partitions"),
    path("control/<uuid:request_id>", control, name="control"),
    path("reruns", reruns, name="reruns"),
    path("reruns/new", new_rerun, name="new_rerun"),
    path("reruns/<uuid:job_id>", rerun, name="rerun"),
    path("reruns/<uuid:job_id>/cancel", cancel_rerun, name="cancel_rerun"),
    path("failures", failures, name="failures"),
    path("failures/<str:fingerprint>", failure, name="failure"),
    path("failures/<str:fingerprint>/change", change_failure, name="change_failure"),
    path("probe", probe, name="probe"),
    path("topics", topics, name="topics"),
    path("dead-letters", dead_letters, name="dead_letters"),
    path("dead-letters/by-failure", letter_groups, name="letter_groups"),
    path("dead-letters/jobs", letter_jobs, name="letter_jobs"),
    path("dead-letters/jobs/new", new_letter_job, name="new_letter_job"),
    path("dead-letters/jobs/<uuid:job_id>", letter_job, name="letter_job"),
    path("dead-letters/<int:letter_id>/edit", edit_letter, name="edit_letter"),
    path("dead-letters/<int:letter_id>", dead_letter, name="dead_letter"),
    path("audit", audit, name="audit"),
    path("go", go, name="go"),
    path("config", config, name="config"),
    path("tokens", tokens, name="tokens"),
    path("tokens/<int:token_id>/revoke", revoke, name="revoke_token"),
    path("login/", Login.as_view(), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("healthz", healthz, name="healthz"),
    path("favicon.ico", RedirectView.as_view(url="/static/drakkar/favicon.svg")),
    path("api/v1/", api.urls),
    re_path(r"^api/", api_missing),
    path("admin/", admin.site.urls),
    path("", include("django_prometheus.urls")),
]

handler400 = "drakkar_site.errors.unreadable"
handler403 = "drakkar_site.errors.forbidden"
handler404 = "drakkar_site.errors.missing"
handler500 = "drakkar_site.errors.failed"
