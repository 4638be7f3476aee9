"""Where audit events come from: one leaf each, all with the interface of `holdfast.engine.audit.interface`."""
