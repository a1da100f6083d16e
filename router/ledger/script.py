"""The one Lua script: applies a batch once, and reads the experts it names.

KEYS    the format's key, the index of experts, this replica's marker, the index of accounts, then one hash per
        expert and one per day
ARGV    format, half-life (s), the marker's life (s), batch number (0: only read), the number that the marker
        must at least show, age of the batch (s), the batch as in `outbox.Batch`, its experts in the order of the
        hashes, the number of experts, then per day when its hash is forgotten (Unix time)
Returns {'ok', time, HMGET of every hash} | {'gap', number shown} | {'format', found} | {'foreign', key}

Everything is read and checked before the first write, so that an error leaves nothing half applied. Whole numbers
go through HINCRBY, since Lua's are doubles; those of the accounts, where a day's sum may be large, go there as
text. The fading sums fade by the server's clock, so replicas need not agree on the time, and the order in which
their batches arrive does not matter.
"""

from router.ledger.account import COUNTED
from router.ledger.outbox import FADING

#: Raised by one when what is kept, or where, changes; not where something is only added, which the version before
#: leaves alone.
FORMAT = "1"

HASH = ("at", *COUNTED, *FADING)


def _lua_list(names: tuple[str, ...]) -> str:
    return "{" + ", ".join(f"'{name}'" for name in names) + "}"


SCRIPT = (
    f"local FIELDS = {_lua_list(HASH)}\nlocal COUNTED, FADING = {len(COUNTED)}, {len(FADING)}\n"
    + r"""
local format, half_life, marker_life = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local number, base, age = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local last = 4 + tonumber(ARGV[8])  -- the last expert's place among the keys

local found = redis.call('GET', KEYS[1])
if found and found ~= format then return {'format', found} end
local shown = tonumber(redis.call('GET', KEYS[3]) or '0')
if not shown then return {'foreign', KEYS[3]} end
if shown < base then return {'gap', string.format('%.0f', shown)} end
redis.call('SCARD', KEYS[2])

local hashes = {}
for k = 5, last do
  local hash = redis.call('HMGET', KEYS[k], unpack(FIELDS))
  for i, value in ipairs(hash) do
    local whole = i > 1 and i <= 1 + COUNTED
    if value and (not tonumber(value) or whole and not string.match(value, '^%-?%d+$')) then
      return {'foreign', KEYS[k]}
    end
  end
  hashes[k - 4] = hash
end

local batch, accounts, fresh = nil, {}, {}
if number > shown then
  batch = cjson.decode(ARGV[7])
  local known = redis.call('HLEN', KEYS[4])
  for i, row in ipairs(batch.accounts) do
    local at = redis.call('HGET', KEYS[4], row[2]) or fresh[row[2]]
    if not at then
      known = known + 1
      at = string.format('%.0f', known)
      fresh[row[2]] = at
    end
    if not string.match(at, '^%d+$') then return {'foreign', KEYS[4]} end
    local fields = {}
    for j = 3, #row, 2 do fields[#fields + 1] = at .. ':' .. row[j] end
    for _, value in ipairs(redis.call('HMGET', KEYS[last + row[1]], unpack(fields))) do
      if value and not string.match(value, '^%-?%d+$') then return {'foreign', KEYS[last + row[1]]} end
    end
    accounts[i] = fields
  end
end

local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6

-- The factor that takes a weight from one moment to another. The last trace is kept: of an expert that was
-- silent for days, old figures are better than none, and the first new one outweighs them.
local function fade(weight, seconds)
  local factor = 0.5 ^ (math.max(seconds, 0) / half_life)
  if weight > 0 and weight * factor < 1e-9 then return math.min(1e-9 / weight, 1) end
  return factor
end

if batch then
  local late = 0.5 ^ (math.max(age, 0) / half_life)
  for k, row in ipairs(batch.experts) do
    local key, hash = KEYS[k + 4], hashes[k]
    for i = 2, 1 + COUNTED do
      if row[i] ~= 0 then
        redis.call('HINCRBY', key, FIELDS[i], string.format('%.0f', row[i]))
      elseif not hash[i] then
        redis.call('HSET', key, FIELDS[i], '0')
      end
    end
    local at = tonumber(hash[1] or now)
    local values = {'at', string.format('%.6f', math.max(now, at))}
    for i = 2 + COUNTED, COUNTED + FADING, 2 do  -- in pairs: a weight, and a sum that fades with it
      local factor = fade(tonumber(hash[i] or 0), now - at)
      for j = i, i + 1 do
        values[#values + 1] = FIELDS[j]
        values[#values + 1] = string.format('%.17g', tonumber(hash[j] or 0) * factor + row[j] * late)
      end
    end
    redis.call('HSET', key, unpack(values))
    redis.call('SADD', KEYS[2], row[1])
  end
  for name, at in pairs(fresh) do redis.call('HSET', KEYS[4], name, at) end
  for i, row in ipairs(batch.accounts) do
    for j, field in ipairs(accounts[i]) do
      redis.call('HINCRBY', KEYS[last + row[1]], field, row[2 + 2 * j])
    end
  end
  for k = last + 1, #KEYS do redis.call('EXPIREAT', KEYS[k], ARGV[8 + k - last]) end
  if not found then redis.call('SET', KEYS[1], format) end
  redis.call('SET', KEYS[3], string.format('%.0f', number), 'EX', marker_life)
end

local reply = {'ok', string.format('%.6f', now)}
for k = 5, last do
  reply[#reply + 1] = redis.call('HMGET', KEYS[k], unpack(FIELDS))
end
return reply
"""
)
