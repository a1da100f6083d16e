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

local function place_of(cap)
  if cap.kind == 'window' then return math.floor(now / cap.width) end
  local current = period_of(math.floor(now / DAY), cap.period)
  -- a clock that is set back must not give a spent budget anew
  return math.max(current, tonumber(redis.call('HGET', cap.key, 'period') or '0'))
end

-- What counts now; what has left a window is forgotten.
local function used_of(cap)
  if cap.kind == 'lease' then
    redis.call('ZREMRANGEBYSCORE', cap.key, '-inf', now)
    return redis.call('ZCARD', cap.key)
  end
  if cap.kind == 'calendar' then
    local kept = redis.call('HMGET', cap.key, 'period', 'spent')
    if tonumber(kept[1] or '-1') ~= place_of(cap) then return 0 end
    return tonumber(kept[2])
  end
  local kept = redis.call('HMGET', cap.key, 'sum', 'tail')
  if not kept[1] then return 0 end
  local sum, tail, first = tonumber(kept[1]), tonumber(kept[2]), place_of(cap) - cap.slots
  if tail >= first then return sum end
  if first > tail + cap.slots then
    redis.call('DEL', cap.key)
    return 0
  end
  local gone = {}
  for slot = tail, first - 1 do gone[#gone + 1] = whole(slot) end
  for _, amount in ipairs(redis.call('HMGET', cap.key, unpack(gone))) do sum = sum - tonumber(amount or '0') end
  redis.call('HDEL', cap.key, unpack(gone))
  redis.call('HSET', cap.key, 'sum', whole(sum), 'tail', whole(first))
  return sum
end

local function add(cap, place, amount)
  if cap.kind == 'window' then
    redis.call('HSETNX', cap.key, 'tail', whole(place))
    redis.call('HINCRBY', cap.key, whole(place), whole(amount))
    redis.call('HINCRBY', cap.key, 'sum', whole(amount))
    redis.call('PEXPIRE', cap.key, whole(cap.width * (cap.slots + 2)))
  else
    if tonumber(redis.call('HGET', cap.key, 'period') or '-1') ~= place then
      redis.call('HSET', cap.key, 'period', whole(place), 'spent', '0', 'open', '0')
    end
    redis.call('HINCRBY', cap.key, 'spent', whole(amount))
    redis.call('PEXPIRE', cap.key, whole(40 * DAY))
  end
end

local function open_of(cap)
  if cap.margin == 0 then return 0 end
  return math.max(tonumber(redis.call('HGET', cap.key, 'open') or '0'), 0)
end

local function open_by(cap, amount)
  if cap.margin == 0 then return end
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
local function wait_of(cap, used)
  if cap.kind == 'calendar' then
    local day = math.floor(now / DAY)
    local current, later = period_of(day, cap.period), day + 1
    while period_of(later, cap.period) == current do later = later + 1 end
    return later * DAY - now
  end
  if cap.amount > cap.limit then return -1 end
  if cap.kind == 'lease' then return 1000 end
  local needed, last = used + cap.amount - cap.limit, place_of(cap)
  for slot = tonumber(redis.call('HGET', cap.key, 'tail')), last do
    needed = needed - tonumber(redis.call('HGET', cap.key, whole(slot)) or '0')
    if needed <= 0 then return (slot + cap.slots + 1) * cap.width - now end
  end
  return cap.slots * cap.width
end

read_caps()
local known = redis.call('EXISTS', KEYS[1]) == 1
local reply, refused, longest = {'ok'}, nil, nil
for number, cap in ipairs(caps) do
  local used = used_of(cap)
  reply[#reply + 1] = whole(used)
  if not known and cap.amount > 0 and used + cap.amount > cap.limit then
    local wait = wait_of(cap, used)
    if not refused or wait == -1 or (longest ~= -1 and wait > longest) then refused, longest = number, wait end
  elseif not known and not refused and cap.margin > 0 then
    local open = open_of(cap)
    if open > 0 and used + cap.amount + cap.margin * open > cap.limit then refused, longest = number, -2 end
  end
end
if known then return reply end
if refused then
  reply[1] = 'no'
  table.insert(reply, 2, whole(longest))
  table.insert(reply, 2, whole(refused))
  return reply
end
for _, cap in ipairs(caps) do
  if cap.kind == 'lease' then
    redis.call('ZADD', cap.key, now + cap.width, ARGV[2])
    redis.call('PEXPIRE', cap.key, cap.width)
  else
    local place = place_of(cap)
    add(cap, place, cap.amount)
    open_by(cap, cap.amount)
    redis.call('HSET', KEYS[1], cap.key, whole(place) .. ' ' .. whole(cap.amount))
  end
end
redis.call('HSET', KEYS[1], 'at', whole(now))
redis.call('EXPIRE', KEYS[1], ARGV[1])
return reply
"""
)

SETTLE = (
    _SHARED
    + r"""
if redis.call('HEXISTS', KEYS[1], 'settled') == 1 then return 0 end
read_caps()
for _, cap in ipairs(caps) do
  if cap.kind == 'lease' then
    redis.call('ZREM', cap.key, ARGV[2])
  else
    used_of(cap)
    local held = redis.call('HGET', KEYS[1], cap.key)
    if not held then
      add(cap, place_of(cap), cap.amount)
    else
      local place, reserved = string.match(held, '^(%d+) (%d+)$')
      open_by(cap, -tonumber(reserved))
      place = tonumber(place)
      -- what was reserved in a period or slot that is over left with it
      local there = 'tail'
      if cap.kind == 'calendar' then there = 'period' end
      local first = tonumber(redis.call('HGET', cap.key, there) or 'inf') or math.huge
      if first == place or (cap.kind == 'window' and first < place) then
        add(cap, place, cap.amount - tonumber(reserved))
      end
    end
  end
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'settled', '1')
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 1
"""
)

HEARTBEAT = r"""
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
for k = 2, #KEYS, 2 do
  if redis.call('HEXISTS', KEYS[k + 1], 'settled') == 0 then
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
