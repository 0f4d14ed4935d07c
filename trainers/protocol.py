"""The names that a launcher and the worker it starts must agree on. Torch-free."""

#: what is run, as `python -m`
WORKER = "trainers.worker"
#: in the attempt's folder: what to do, what happened, and why there is no manifest
SPEC, EVENTS, OUTCOME = "spec.json", "events.jsonl", "outcome.json"
#: the variable that holds the token for reporting events
TOKEN = "PREFSERVE_ATTEMPT_TOKEN"  # noqa: S105 - its name
