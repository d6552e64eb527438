"""Long-lived processes: started, watched, started again, and ended in order."""

from silhouette_shared.supervision.heartbeat import Heart
from silhouette_shared.supervision.logs import log_to_standard_error
from silhouette_shared.supervision.roles import end_on_signals, interrupt_on_terminate, run_role
from silhouette_shared.supervision.service import OUR_EXITS, Port, Service
from silhouette_shared.supervision.status import ServiceStatus, Status, read_status
from silhouette_shared.supervision.supervisor import Supervisor, stop_on_signals

__all__ = [
    "OUR_EXITS",
    "Heart",
    "Port",
    "Service",
    "ServiceStatus",
    "Status",
    "Supervisor",
    "end_on_signals",
    "interrupt_on_terminate",
    "log_to_standard_error",
    "read_status",
    "run_role",
    "stop_on_signals",
]
