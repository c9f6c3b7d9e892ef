"""Pure core: values, decisions and small state machines. No I/O, no clock, no threads."""
