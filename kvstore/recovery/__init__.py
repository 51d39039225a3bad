"""What happens when a store is opened: reading the log, judging its end, publishing the result."""

from kvstore.recovery.opening import Recovered, open_store
from kvstore.recovery.report import RecoveryReport

__all__ = ["Recovered", "RecoveryReport", "open_store"]
