-- Sends one POST body after the other: the parts of a template with a number between them.
-- Arguments: file of the template, first number, how many numbers before it begins anew, "close" or "keep",
-- over how many databases the objects are spread, each by its number.
local parts, first, count, sent, databases = {}, 0, 1, 0, 1

function init(args)
   local file = assert(io.open(args[1], "rb"))
   local text = file:read("*a")
   file:close()
   local from = 1
   while true do
      local at, last = text:find("@N@", from, true)
      parts[#parts + 1] = text:sub(from, (at or 0) - 1)
      if not at then break end
      from = last + 1
   end
   first, count = tonumber(args[2]), tonumber(args[3])
   wrk.method = "POST"
   wrk.headers["Content-Type"] = "application/json"
   if args[4] == "close" then wrk.headers["Connection"] = "close" end
   databases = tonumber(args[5])
end

function request()
   local number = first + sent % count
   sent = sent + 1
   local body = table.concat(parts, string.format("%012d", number))
   if databases > 1 then body = body:gsub("@D@", number % databases) end
   return wrk.format(nil, nil, nil, body)
end

function done(summary, latency, requests)
   local errors = summary.errors
   io.write(string.format(
      '{"requests":%d,"seconds":%.6f,"p50_ms":%.4f,"p99_ms":%.4f,"refused":%d,"broken":%d}\n',
      summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
      errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
