"""`chorus doctor`: every setting and dependency, ok or what is wrong and how to mend it."""

from app.doctor.checkup import examine, refuse_unsafe_redis
from app.doctor.findings import Finding
from app.doctor.namespace_check import refuse_foreign_namespace

__all__ = ["Finding", "examine", "refuse_foreign_namespace", "refuse_unsafe_redis"]
