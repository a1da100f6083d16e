"""The Lua of caps: reserve under all caps of a request or under none, settle once, keep leases alive.

RESERVE   KEYS the reservation, then one per cap; ARGV life of an open reservation (s), the reservation, then per
          cap kind, limit, amount, slot width or lease (ms), slots, period, margin
          {'ok', used before...} | {'no', number of the cap from 1, ms until it fits (-1: never; -2: once calls
          under way have ended), used...}
SETTLE    KEYS as RESERVE; ARGV life of the mark (s), the reservation, then per cap as above with the true amount
          1, or 0 where it was settled before. A cap under which nothing was reserved is charged the whole.
HEARTBEAT KEYS the replicas, then pairs of a lease's cap and its reservation; ARGV the replica, its life (ms),
          lease (ms), then per pair the reservation; returns the number of living replicas

A budget's `open` is what calls under way are expected to cost. They may turn out dearer: while there are any, one
more is admitted only if `margin` times `open` would fit besides. So a budget is not overshot by the errors of all
calls under way, but by that of the last one.

All times are the server's. Amounts are whole numbers and are added by HINCRBY, since Lua's are doubles.
"""

import hashlib
from typing import Any

_SHARED = r"""
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local DAY = 86400000

local function whole(number) return string.format('%.0f', number) end

-- Months since year 0 of a day since 1970; years are taken to begin in March, so that leap days come last.
local function month_of(day)
  local z = day + 719468
  local era = math.floor(z / 146097)
  local of_era = z - era * 146097
  local year = math.floor((of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524)
    - math.floor(of_era / 146096)) / 365)
  local of_year = of_era - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  return (year + era * 400) * 12 + math.floor((5 * of_year + 2) / 153) + 2
end

local function period_of(day, period)
  if period == 'day' then return day end
  if period == 'week' then return math.floor((day + 3) / 7) end  -- 1970 began on a Thursday, weeks on Mondays
  return month_of(day)
end

-- Reads a cap: what counts now (`used`), where more would be added (`place`), what calls under way hold (`open`)
-- and the oldest slot or the period that is kept (`first`). What has left a window is forgotten.
local function read(cap)
  if cap.kind == 'lease' then
    redis.call('ZREMRANGEBYSCORE', cap.key, '-inf', now)
    cap.used = redis.call('ZCARD', cap.key)
  elseif cap.kind == 'calendar' then
    local kept = redis.call('HMGET', cap.key, 'period', 'spent', 'open')
    cap.used, cap.open, cap.first = 0, 0, tonumber(kept[1])
    -- a clock that is set back must not give a spent budget anew
    cap.place = math.max(period_of(math.floor(now / DAY), cap.period), cap.first or 0)
    if cap.first == cap.place then cap.used, cap.open = tonumber(kept[2]), tonumber(kept[3] or '0') end
  else
    cap.place = math.floor(now / cap.width)
    local kept = redis.call('HMGET', cap.key, 'sum', 'tail', 'open')
    cap.used, cap.open = tonumber(kept[1] or '0'), tonumber(kept[3] or '0')
    local tail, first = tonumber(kept[2]), cap.place - cap.slots
    cap.first = tail
    if tail and tail > cap.place then  -- the clock was set back: what was done counts from now on
      redis.call('DEL', cap.key)
      redis.call('HSET', cap.key, 'sum', whole(cap.used), 'open', whole(cap.open), 'tail', whole(cap.place),
        whole(cap.place), whole(cap.used))
      redis.call('PEXPIRE', cap.key, whole(cap.width * (cap.slots + 2)))
      cap.first = cap.place
    end
    if not tail or tail >= first then return end
    if first > tail + cap.slots then
      redis.call('DEL', cap.key)
      cap.used, cap.open, cap.first = 0, 0, nil
      return
    end
    local gone = {}
    for slot = tail, first - 1 do gone[#gone + 1] = whole(slot) end
    for _, amount in ipairs(redis.call('HMGET', cap.key, unpack(gone))) do
      cap.used = cap.used - tonumber(amount or '0')
    end
    redis.call('HDEL', cap.key, unpack(gone))
    redis.call('HSET', cap.key, 'sum', whole(cap.used), 'tail', whole(first))
    cap.first = first
  end
end

local function add(cap, place, amount)
  if cap.kind == 'window' then
    if amount == 0 then return end
    if not cap.first then redis.call('HSET', cap.key, 'tail', whole(place)) end
    local slot = redis.call('HINCRBY', cap.key, whole(place), whole(amount))
    redis.call('HINCRBY', cap.key, 'sum', whole(amount))
    if slot == amount then redis.call('PEXPIRE', cap.key, whole(cap.width * (cap.slots + 2))) end  -- a new slot
  else
    if cap.first ~= place then
      redis.call('HSET', cap.key, 'period', whole(place), 'spent', '0', 'open', '0')
      redis.call('PEXPIRE', cap.key, whole(40 * DAY))
    end
    if amount ~= 0 then redis.call('HINCRBY', cap.key, 'spent', whole(amount)) end
  end
end

local function open_by(cap, amount)
  if cap.margin == 0 or amount == 0 then return end
  if redis.call('HINCRBY', cap.key, 'open', whole(amount)) < 0 then redis.call('HSET', cap.key, 'open', '0') end
end

local caps = {}
local function read_caps()
  for k = 2, #KEYS do
    local at = 3 + (k - 2) * 7
    caps[k - 1] = {
      key = KEYS[k], kind = ARGV[at], limit = tonumber(ARGV[at + 1]), amount = tonumber(ARGV[at + 2]),
      width = tonumber(ARGV[at + 3]), slots = tonumber(ARGV[at + 4]), period = ARGV[at + 5],
      margin = tonumber(ARGV[at + 6]),
    }
  end
end
"""

RESERVE = (
    _SHARED
    + r"""
-- Milliseconds until the cap has room again; -1: it never will.
local function wait_of(cap)
  if cap.kind == 'calendar' then
    local day = math.floor(now / DAY)
    local current, later = period_of(day, cap.period), day + 1
    while period_of(later, cap.period) == current do later = later + 1 end
    return later * DAY - now
  end
  if cap.amount > cap.limit then return -1 end
  if cap.kind == 'lease' then return 1000 end
  local needed = cap.used + cap.amount - cap.limit
  for slot = cap.first, cap.place do
    needed = needed - tonumber(redis.call('HGET', cap.key, whole(slot)) or '0')
    if needed <= 0 then return (slot + cap.slots + 1) * cap.width - now end
  end
  return cap.slots * cap.width
end

read_caps()
local known = redis.call('EXISTS', KEYS[1]) == 1
local reply, refused, longest = {'ok'}, nil, nil
for number, cap in ipairs(caps) do
  read(cap)
  reply[#reply + 1] = whole(cap.used)
  if not known and cap.amount > 0 and cap.used + cap.amount > cap.limit then
    local wait = wait_of(cap)
    if not refused or wait == -1 or (longest ~= -1 and wait > longest) then refused, longest = number, wait end
  elseif not known and not refused and cap.margin > 0 and cap.amount > 0 then  -- what is free asks for no money
    if cap.open > 0 and cap.used + cap.amount + cap.margin * cap.open > cap.limit then
      refused, longest = number, -2
    end
  end
end
if known then return reply end
if refused then
  reply[1] = 'no'
  table.insert(reply, 2, whole(longest))
  table.insert(reply, 2, whole(refused))
  return reply
end
local held = {}
for number, cap in ipairs(caps) do
  if cap.kind == 'lease' then
    redis.call('ZADD', cap.key, now + cap.width, ARGV[2])
    redis.call('PEXPIRE', cap.key, cap.width)
    held[number] = '-'
  else
    add(cap, cap.place, cap.amount)
    open_by(cap, cap.amount)
    held[number] = whole(cap.place) .. ':' .. whole(cap.amount)
  end
end
redis.call('SET', KEYS[1], table.concat(held, ' '), 'EX', ARGV[1])
return reply
"""
)

SETTLE = (
    _SHARED
    + r"""
local kept = redis.call('GET', KEYS[1])
if kept == 'settled' then return 0 end
read_caps()
local held = string.gmatch(kept or '', '%S+')
for _, cap in ipairs(caps) do
  local reserved = held()
  if cap.kind == 'lease' then
    redis.call('ZREM', cap.key, ARGV[2])
  else
    read(cap)
    if not reserved then
      add(cap, cap.place, cap.amount)
    else
      local place, amount = string.match(reserved, '^(%d+):(%d+)$')
      place, amount = tonumber(place), tonumber(amount)
      local window = cap.kind == 'window'
      if window or cap.first == place then open_by(cap, -amount) end
      -- what was reserved in a period or slot that is over left with it
      if cap.first == place or (window and cap.first and cap.first < place) then
        add(cap, place, cap.amount - amount)
      end
    end
  end
end
redis.call('SET', KEYS[1], 'settled', 'EX', ARGV[1])
return 1
"""
)

HEARTBEAT = r"""
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
for k = 2, #KEYS, 2 do
  if redis.call('GET', KEYS[k + 1]) ~= 'settled' then
    redis.call('ZADD', KEYS[k], now + tonumber(ARGV[3]), ARGV[3 + k / 2])
    redis.call('PEXPIRE', KEYS[k], ARGV[3])
  end
end
return redis.call('ZCARD', KEYS[1])
"""

SCRIPTS = {
    hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest(): script
    for script in (RESERVE, SETTLE, HEARTBEAT)
}
RESERVE_SHA, SETTLE_SHA, HEARTBEAT_SHA = SCRIPTS


def is_reply(answer: Any, caps: int) -> bool:
    """Whether it is what RESERVE says of so many caps."""
    if not isinstance(answer, list) or not answer:
        return False
    word, *numbers = answer
    if len(numbers) != {b"ok": caps, b"no": caps + 2}.get(word if isinstance(word, bytes) else b"", -1):
        return False
    if not all(isinstance(one, bytes) and one.removeprefix(b"-").isdigit() for one in numbers):
        return False
    return word == b"ok" or 1 <= int(numbers[0]) <= caps
