"""Long-lived processes: started, watched, started again, and ended in order."""

from silhouette_shared.supervision.heartbeat import Heart
from silhouette_shared.supervision.logs import log_to_standard_error
from silhouette_shared.supervision.roles import call_on_signals, end_on_signals, run_role, run_until_asked
from silhouette_shared.supervision.service import OUR_EXITS, Port, Service
from silhouette_shared.supervision.status import ServiceStatus, Status, read_status
from silhouette_shared.supervision.supervisor import Supervisor

__all__ = [
    "OUR_EXITS",
    "Heart",
    "Port",
    "Service",
    "ServiceStatus",
    "Status",
    "Supervisor",
    "call_on_signals",
    "end_on_signals",
    "log_to_standard_error",
    "read_status",
    "run_role",
    "run_until_asked",
]
