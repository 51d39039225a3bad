"""What happens when a store is opened: reading the log, judging its end, publishing the result; and
verifying a store without opening it."""

from kvstore.recovery.opening import Recovered, open_store
from kvstore.recovery.report import RecoveryReport
from kvstore.recovery.verify import FileDamage, VerifyReport, verify_store

__all__ = [
    "FileDamage",
    "Recovered",
    "RecoveryReport",
    "VerifyReport",
    "open_store",
    "verify_store",
]
