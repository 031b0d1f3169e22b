-- The POST of MCP for wrk: about 1 KiB of head, a body of `bytes`.
--
-- wrk ... -- FILE each|turn BODY [close] [vary]
--   FILE: a line for each caller, `session token` (`-`: none). each: a thread is one caller; turn: requests take turns.
--   BODY: call (the tool echo) | big (1 MiB comes back) | upload (1 MiB goes there) | modern (without session)
-- A line of JSON with the counts comes last.
local started = 0
function setup(thread)
    started = started + 1
    thread:set("number", started)
end

local function body_of(kind)
    if kind == "modern" then
        local head = '{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"x":"'
        return head .. string.rep("x", 250 - #head - 5) .. '"}}}'
    end
    local name = kind == "call" and "echo" or kind
    local bytes = kind == "upload" and 1048576 or 250
    local head = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"' .. name .. '","arguments":{"text":"'
    local tail = '"}}}'
    return head .. string.rep("x", bytes - #head - #tail) .. tail
end

function init(args)
    local turn, body = args[2] == "turn", args[3]
    local close, vary = false, false
    for i = 4, #args do
        close, vary = close or args[i] == "close", vary or args[i] == "vary"
    end
    wrk.method = "POST"
    wrk.headers["Content-Type"] = "application/json"
    wrk.headers["Accept"] = "application/json, text/event-stream"
    wrk.headers["MCP-Protocol-Version"] = "2025-11-25"
    wrk.headers["User-Agent"] = "mcp-client/1.0 (bench; linux x86_64) sdk/2.4.0"
    wrk.headers["Accept-Language"] = "en-US,en;q=0.9"
    wrk.headers["X-Request-Id"] = "0123456789abcdef0123456789abcdef"
    wrk.headers["traceparent"] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    wrk.headers["baggage"] = string.rep("b", 200)
    if close then wrk.headers["Connection"] = "close" end
    wrk.body = body_of(body)
    if turn then
        -- Put together as it is needed, from one text of all ids, which are equally long: many small things are work for the
        -- client that few are not. Each request is a new text, however few ids there are.
        local file = io.open(args[1])
        local ids = file:read("*a")
        file:close()
        local line = ids:find("\n")
        local width, count = line - #" -\n", #ids / line
        wrk.headers["Mcp-Session-Id"] = "@"
        wrk.headers["Cookie"] = string.rep("c", 300)
        local text = wrk.format():gsub("b7ad6b7169203331", "b7ad6b71#")
        local one, first, two, _, three = text:match("^(.-)([@#])(\r?.-)([@#])(.*)$")
        local n = 0
        function request()
            n = n + 1
            local at = n % count * line
            local id, number = ids:sub(at + 1, at + width), string.format("%08x", n)
            if first == "#" then id, number = number, id end
            return one .. id .. two .. number .. three
        end
        return
    end
    local callers = {}
    for line in io.lines(args[1]) do
        local session, token = line:match("^(%S+) (%S+)$")
        callers[#callers + 1] = { session, token }
    end
    local function as(caller)
        if caller[1] ~= "-" then wrk.headers["Mcp-Session-Id"] = caller[1] end
        if caller[2] ~= "-" then
            wrk.headers["Authorization"] = "Bearer " .. caller[2]
        else
            wrk.headers["Cookie"] = string.rep("c", 300)
        end
    end
    if body == "modern" then
        wrk.headers["MCP-Protocol-Version"] = "2026-07-28"
        wrk.headers["Mcp-Method"] = "tools/list"
        callers = { { "-", "-" } }
    end
    as(callers[(number - 1) % #callers + 1])
    if vary then
        local n = 0
        local before, after = wrk.format():match("^(.-b7ad6b71)69203331(.*)$")
        function request()
            n = n + 1
            return before .. string.format("%08x", n) .. after
        end
    end
end

function done(summary, latency, _)
    local e = summary.errors
    io.write(string.format(
        '\n{"requests": %d, "errors": %d, "p50_us": %.0f, "p99_us": %.0f, "seconds": %.6f}\n',
        summary.requests, e.connect + e.read + e.write + e.status + e.timeout,
        latency:percentile(50), latency:percentile(99), summary.duration / 1e6))
end
