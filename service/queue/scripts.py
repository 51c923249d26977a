"""The Lua scripts: every change of a job's state is one script, so it is atomic.

Each may be sent twice (a client repeats an unanswered call); the second time has no effect.
Each script below is a string, and the functions return the keys and arguments for its call.
"""

from __future__ import annotations

import json

from service.contracts import wire
from service.contracts.jobs import Job, JobStatus, Progress

Call = tuple[list[str], list[str | int]]
"""Keys and arguments."""

_EVENT = """
local function event(stream, kept, data)
  redis.call('XADD', stream, 'MAXLEN', '~', kept, '*', 'event', 'status', 'data', data)
end
"""
_TERMINAL = """
local function ended(status)
  return status == 'succeeded' or status == 'failed' or status == 'cancelled'
end
"""
_DROP = """
local function drop(job, jobs, events, group, ttl)
  local entry = redis.call('HGET', job, 'entry')
  if entry then
    redis.pcall('XACK', jobs, group, entry)
    redis.call('XDEL', jobs, entry)
  end
  redis.call('HDEL', job, 'job')
  redis.call('EXPIRE', job, ttl)
  redis.call('EXPIRE', events, ttl)
end
"""
# without a fence nobody has to hold the lease: the job is one that followers may do
_HELD = """
local function held(lease, fence, mine)
  if not mine then return true end
  local owner = redis.call('GET', lease)
  if owner and tonumber(string.match(owner, '^%d+')) ~= mine then return false end
  return tonumber(redis.call('GET', fence) or 0) <= mine
end
"""

_THIS_RUN = """
local function this_run()
  return string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
end
"""

SUBMIT = (
    _EVENT
    + _THIS_RUN
    + """
if redis.call('HEXISTS', KEYS[1], 'status') == 1 then return 0 end
if ARGV[6] == 'in turn' and redis.call('GET', KEYS[4]) ~= this_run() then return -1 end
redis.call('DEL', KEYS[1])
local entry = redis.call('XADD', KEYS[2], '*', 'id', ARGV[1])
redis.call('HSET', KEYS[1], 'status', 'queued', 'job', ARGV[2], 'attempt', ARGV[3],
           'entry', entry)
event(KEYS[3], ARGV[4], ARGV[5])
return 1
"""
)
"""1, or 0 if the job is known: a hash without a status is a remnant.  -1: this server was started
or emptied since all jobs were submitted to it, so it may lack some that come before this one.
"""

FILLED = _THIS_RUN + "redis.call('SET', KEYS[1], this_run()) return 1"
"""All jobs have been submitted to this server."""

BEGIN = (
    _EVENT
    + _TERMINAL
    + _HELD
    + """
if not held(KEYS[1], KEYS[2], tonumber(ARGV[1])) then return -1 end
local status = redis.call('HGET', KEYS[3], 'status')
if not status or ended(status) then return -2 end
if redis.call('HGET', KEYS[3], 'nonce') ~= ARGV[2] then
  redis.call('HINCRBY', KEYS[3], 'attempt', 1)
  status = status == 'cancelling' and status or 'running'
  redis.call('HSET', KEYS[3], 'nonce', ARGV[2], 'status', status, 'started_at', ARGV[3])
  if ARGV[4] ~= '' then redis.call('HSET', KEYS[3], 'base_version', ARGV[4]) end
  local data = cjson.decode(ARGV[6])
  data.status = status
  data.attempt = tonumber(redis.call('HGET', KEYS[3], 'attempt'))
  event(KEYS[4], ARGV[5], cjson.encode(data))
end
return tonumber(redis.call('HGET', KEYS[3], 'attempt'))
"""
)
"""The number of this attempt; -1: lease lost, -2: the job is not there to begin."""

UNBEGIN = (
    _EVENT
    + _TERMINAL
    + _HELD
    + """
if not held(KEYS[1], KEYS[2], tonumber(ARGV[1])) then return -1 end
local status = redis.call('HGET', KEYS[3], 'status')
if not status or ended(status) or redis.call('HGET', KEYS[3], 'nonce') ~= ARGV[2] then return 0 end
redis.call('HINCRBY', KEYS[3], 'attempt', -1)
redis.call('HDEL', KEYS[3], 'nonce', 'started_at', 'base_version', 'progress')
if status == 'running' then
  redis.call('HSET', KEYS[3], 'status', 'queued')
  event(KEYS[4], ARGV[3], ARGV[4])
end
return 1
"""
)
"""1, 0 if this attempt is no longer the job's last one, -1: lease lost."""

PROGRESS = """
if redis.call('HEXISTS', KEYS[1], 'status') == 0 then return 0 end
redis.call('HSET', KEYS[1], 'progress', ARGV[1])
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', 'event', 'progress', 'data', ARGV[1])
return 1
"""
"""1, or 0 if the job is unknown: a Redis that lost it must not get a part of it back."""

FINISH = (
    _EVENT
    + _TERMINAL
    + _DROP
    + _HELD
    + """
if not held(KEYS[1], KEYS[2], tonumber(ARGV[1])) then return -1 end
if not ended(redis.call('HGET', KEYS[3], 'status')) then
  redis.call('HSET', KEYS[3], 'status', ARGV[2])
  event(KEYS[4], ARGV[3], ARGV[4])
end
drop(KEYS[3], KEYS[5], KEYS[4], ARGV[5], ARGV[6])
return 1
"""
)
"""1, or -1: lease lost."""

CANCEL = (
    _EVENT
    + _TERMINAL
    + _DROP
    + """
local status = redis.call('HGET', KEYS[1], 'status')
if not status or ended(status) or status == 'cancelling' then return status end
redis.call('HSET', KEYS[1], 'cancel', 1)
if status == 'queued' then
  redis.call('HSET', KEYS[1], 'status', 'cancelled')
  event(KEYS[2], ARGV[1], ARGV[3])
  drop(KEYS[1], KEYS[3], KEYS[2], ARGV[4], ARGV[5])
  return 'cancelled'
end
redis.call('HSET', KEYS[1], 'status', 'cancelling')
event(KEYS[2], ARGV[1], ARGV[2])
return 'cancelling'
"""
)
"""The status after it, nil for an unknown job."""

ACQUIRE = """
local held = redis.call('GET', KEYS[1])
if held and string.match(held, '^%d+ (.*)$') ~= ARGV[1] then return 0 end
local fence = math.max(tonumber(redis.call('GET', KEYS[2]) or 0), tonumber(ARGV[2])) + 1
redis.call('SET', KEYS[2], fence)
redis.call('SET', KEYS[1], fence .. ' ' .. ARGV[1], 'PX', ARGV[3])
return fence
"""
"""A new fence, or 0 while another owner holds the lease."""

RENEW = """
local held = redis.call('GET', KEYS[1])
local counter = tonumber(redis.call('GET', KEYS[2]) or 0)
local mine = tonumber(ARGV[1])
if held and held ~= ARGV[1] .. ' ' .. ARGV[2] or counter > mine then return 0 end
redis.call('SET', KEYS[2], mine)
redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. ARGV[2], 'PX', ARGV[3])
return 1
"""
"""1, also where the lease ran out and nobody else came; 0: lost."""

RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
"""


def submit(keys: wire.Keys, job: Job, in_turn: bool = False) -> Call:
    """Arguments of :data:`SUBMIT` for the store of these ``keys``, as all below.

    ``in_turn``: only if no job before it can be missing.
    """
    queued = job.model_copy(update={"status": JobStatus.QUEUED})
    return (
        [keys.job(job.id), keys.stream(job), keys.events(job.id), keys.filled],
        [
            job.id,
            queued.model_dump_json(),
            job.attempt,
            wire.EVENTS_KEPT,
            wire.status_event(queued),
            "in turn" if in_turn else "",
        ],
    )


def begin(keys: wire.Keys, job: Job, fence: int | None, nonce: str) -> Call:
    """Arguments of :data:`BEGIN`; ``job.started_at`` must be set."""
    started_at = job.started_at.isoformat() if job.started_at else ""
    return (
        [keys.lease, keys.fence, keys.job(job.id), keys.events(job.id)],
        [
            _given(fence),
            nonce,
            started_at,
            job.base_version or "",
            wire.EVENTS_KEPT,
            wire.status_event(job),
        ],
    )


def unbegin(keys: wire.Keys, job: Job, fence: int | None, nonce: str) -> Call:
    """Arguments of :data:`UNBEGIN`; ``job`` as it was begun."""
    given_back = {"status": JobStatus.QUEUED, "attempt": job.attempt - 1, "base_version": None}
    return (
        [keys.lease, keys.fence, keys.job(job.id), keys.events(job.id)],
        [
            _given(fence),
            nonce,
            wire.EVENTS_KEPT,
            wire.status_event(job.model_copy(update=given_back)),
        ],
    )


def progress(keys: wire.Keys, job_id: str, progress: Progress) -> Call:
    """Arguments of :data:`PROGRESS`."""
    return (
        [keys.job(job_id), keys.events(job_id)],
        [progress.model_dump_json(), wire.EVENTS_KEPT],
    )


def finish(keys: wire.Keys, job: Job, fence: int | None) -> Call:
    """Arguments of :data:`FINISH`."""
    return (
        [
            keys.lease,
            keys.fence,
            keys.job(job.id),
            keys.events(job.id),
            keys.stream(job),
        ],
        [
            _given(fence),
            job.status,
            wire.EVENTS_KEPT,
            wire.status_event(job),
            wire.GROUP,
            wire.FINISHED_TTL_S,
        ],
    )


def cancel(keys: wire.Keys, job_id: str, stream: str) -> Call:
    """Arguments of :data:`CANCEL`; ``stream`` is the one that the job waits in."""
    cancelling, cancelled = (
        json.dumps({"job_id": job_id, "status": status})
        for status in (JobStatus.CANCELLING, JobStatus.CANCELLED)
    )
    return (
        [keys.job(job_id), keys.events(job_id), stream],
        [wire.EVENTS_KEPT, cancelling, cancelled, wire.GROUP, wire.FINISHED_TTL_S],
    )


def _given(fence: int | None) -> str | int:
    return "" if fence is None else fence
