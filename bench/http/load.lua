-- wrk's script: posts questions, and tells accepted from refused ones. Its whole result is one JSON line.
-- BENCH_BODIES: file with a JSON body a line. BENCH_PAUSE_MS: mean of a connection's random pause before each request; 0: none.
-- A request is known again by its x-request-id, which the api echoes: wrk itself does not tell latencies apart by status.

local ffi = require("ffi")
ffi.cdef("typedef struct { long s; long ns; } bench_time; int clock_gettime(int clock, bench_time *now);")
local clock = ffi.new("bench_time")
local function now_us()
  ffi.C.clock_gettime(1, clock)
  return tonumber(clock.s) * 1e6 + tonumber(clock.ns) / 1e3
end

local bodies = {}
for line in io.lines(os.getenv("BENCH_BODIES")) do bodies[#bodies + 1] = line end
local pause_ms = tonumber(os.getenv("BENCH_PAUSE_MS"))
local sent_us, number = {}, 0

-- Global, because thread:get reads globals, and flat, because it fails on nested tables:
-- latency in units of 10 us * 1000 + status -> count.
latencies = {}

if pause_ms > 0 then
  -- Exponential pauses, so that many connections together arrive as strangers do.
  function delay() return math.floor(-pause_ms * math.log(1 - math.random()) + 0.5) end
end

function request()
  number = number + 1
  local id = tostring(number)
  sent_us[id] = now_us()
  return wrk.format("POST", nil, { ["content-type"] = "application/json", ["x-request-id"] = id }, bodies[number % #bodies + 1])
end

function response(status, headers)
  local id = headers["x-request-id"]
  local taken = math.floor((now_us() - sent_us[id]) / 10)
  sent_us[id] = nil
  local key = taken * 1000 + status
  latencies[key] = (latencies[key] or 0) + 1
end

local threads = {}
function setup(thread) threads[#threads + 1] = thread end

function done(summary)
  local counts = {}
  for _, thread in ipairs(threads) do
    for key, count in pairs(thread:get("latencies")) do
      counts[#counts + 1] = string.format("[%d,%d,%d]", key % 1000, math.floor(key / 1000), count)
    end
  end
  local errors = summary.errors
  print(string.format('{"seconds":%f,"broken":%d,"latencies_10us":[%s]}', summary.duration / 1e6,
    errors.connect + errors.read + errors.write + errors.timeout, table.concat(counts, ",")))
end
