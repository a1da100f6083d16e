"""The Lua of virtual keys: read what changed, commit one change with its line in the audit log.

READ    KEYS state, changed, records; ARGV format, check, epoch and number that the replica knows
        {'ok', epoch, number, '1' if all follows, member, document ('' where it is gone), ...}
COMMIT  KEYS state, changed, records, audit; ARGV format, check, epoch, number, a new epoch, member, document
        ('' to delete), audit entry, entries kept, channel
        {'ok', number} | {'changed'} where someone else was first
Both    {'format', found} for another format, {'secret'} for records under another server secret
"""

import hashlib

_STATE = r"""
local state = redis.call('HMGET', KEYS[1], 'format', 'check', 'epoch', 'number')
if state[1] and state[1] ~= ARGV[1] then return {'format', state[1]} end
if state[2] and state[2] ~= ARGV[2] then return {'secret'} end
local epoch, number = state[3] or '', state[4] or '0'
"""

READ = (
    _STATE
    + r"""
local since, all = ARGV[4], '0'
-- a Redis that lost data, or holds another's, is read anew
if epoch ~= ARGV[3] or tonumber(number) < tonumber(since) then since, all = '0', '1' end
local reply = {'ok', epoch, number, all}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. since, '+inf')) do
  reply[#reply + 1] = member
  reply[#reply + 1] = redis.call('HGET', KEYS[3], member) or ''
end
return reply
"""
)

COMMIT = (
    _STATE
    + r"""
if epoch ~= ARGV[3] or number ~= ARGV[4] then return {'changed'} end
if epoch == '' then epoch = ARGV[5] end
number = string.format('%.0f', tonumber(number) + 1)
redis.call('HSET', KEYS[1], 'format', ARGV[1], 'check', ARGV[2], 'epoch', epoch, 'number', number)
redis.call('ZADD', KEYS[2], number, ARGV[6])
if ARGV[7] == '' then redis.call('HDEL', KEYS[3], ARGV[6]) else redis.call('HSET', KEYS[3], ARGV[6], ARGV[7]) end
redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[9], '*', 'entry', ARGV[8])
redis.call('PUBLISH', ARGV[10], number)
return {'ok', number}
"""
)

SHA = {script: hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest() for script in (READ, COMMIT)}
