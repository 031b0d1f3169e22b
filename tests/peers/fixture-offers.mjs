// The tools, resources and prompts of the fixture server, as the scenarios of the conformance suite name them.

const PNG =
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==";
const WAV = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQIAAAAAAA==";

const text = (text) => ({ content: [{ type: "text", text }] });
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** State that travels through the client, sealed. */
export function requestState(sdk) {
  return sdk.createRequestStateCodec({ key: "a fixture keeps no secrets, but a key must be long" });
}

/** The server with all of it, for one era; `changes` are told to whoever subscribes, unless the server itself tells. */
export function fixture({ sdk, zod, era, state, changes }) {
  const capabilities = {
    tools: { listChanged: true },
    prompts: { listChanged: true },
    resources: { listChanged: true, subscribe: true },
    completions: {},
    logging: {},
  };
  const server = new sdk.McpServer(
    { name: "fixture", version: "1.0.0" },
    {
      capabilities,
      requestState: { verify: state.verify },
      cacheHints: {
        "tools/list": { ttlMs: 1000, cacheScope: "public" },
        "prompts/list": { ttlMs: 1000, cacheScope: "public" },
        "resources/list": { ttlMs: 1000, cacheScope: "public" },
        "resources/templates/list": { ttlMs: 1000, cacheScope: "public" },
        "resources/read": { ttlMs: 1000, cacheScope: "private" },
      },
    },
  );
  const own = { toolsChanged: () => server.sendToolListChanged(), promptsChanged: () => server.sendPromptListChanged() };
  offer({ server, sdk, zod, era, state, changes: changes ?? own });
  return server;
}

function offer(fixture) {
  contents(fixture);
  schemas(fixture);
  during(fixture);
  asking(fixture);
  inputRequired(fixture);
  diagnostics(fixture);
  resources(fixture);
  prompts(fixture);
}

// --- tools that answer

function contents({ server }) {
  const answers = {
    test_simple_text: text("This is a simple text response for testing."),
    test_image_content: { content: [{ type: "image", data: PNG, mimeType: "image/png" }] },
    test_audio_content: { content: [{ type: "audio", data: WAV, mimeType: "audio/wav" }] },
    test_embedded_resource: {
      content: [
        {
          type: "resource",
          resource: {
            uri: "test://embedded-resource",
            mimeType: "text/plain",
            text: "This is an embedded resource content.",
          },
        },
      ],
    },
    test_multiple_content_types: {
      content: [
        { type: "text", text: "Multiple content types test:" },
        { type: "image", data: PNG, mimeType: "image/png" },
        {
          type: "resource",
          resource: {
            uri: "test://mixed-content-resource",
            mimeType: "application/json",
            text: '{"test":"data","value":123}',
          },
        },
      ],
    },
    test_error_handling: {
      isError: true,
      content: [{ type: "text", text: "This tool intentionally returns an error for testing" }],
    },
  };
  for (const [name, answer] of Object.entries(answers)) {
    server.registerTool(name, { description: name }, async () => answer);
  }
}

// --- tools with schemas that are passed on as they are

function schemas({ server, sdk }) {
  const address = {
    $anchor: "addressDef",
    type: "object",
    properties: { street: { type: "string" }, city: { type: "string" } },
  };
  const contact = {
    $schema: "https://json-schema.org/draft/2020-12/schema",
    type: "object",
    $defs: { address },
    properties: {
      name: { type: "string" },
      address: { $ref: "#/$defs/address" },
      contactMethod: { type: "string", enum: ["phone", "email"] },
      phone: { type: "string" },
      email: { type: "string" },
    },
    allOf: [{ anyOf: [{ required: ["phone"] }, { required: ["email"] }] }],
    if: { properties: { contactMethod: { const: "phone" } }, required: ["contactMethod"] },
    then: { required: ["phone"] },
    else: { required: ["email"] },
    additionalProperties: false,
  };
  const region = {
    type: "object",
    properties: { region: { type: "string", "x-mcp-header": "Region" } },
    required: ["region"],
  };
  for (const [name, schema] of Object.entries({ json_schema_2020_12_tool: contact, test_header_parameter: region })) {
    const config = { description: name, inputSchema: sdk.fromJsonSchema(schema) };
    server.registerTool(name, config, async (given) => text(JSON.stringify(given)));
  }
}

// --- tools that say something before they answer

function during({ server, zod, era }) {
  const log = async (context, data) => {
    if (era === "legacy") await context.mcpReq.log("info", data, "fixture");
  };
  for (const name of ["test_tool_with_logging", "test_logging_tool"]) {
    server.registerTool(name, { description: "Logs three times" }, async (context) => {
      await log(context, "Tool execution started");
      await pause(50);
      await log(context, "Tool processing data");
      await pause(50);
      await log(context, "Tool execution completed");
      return text("logged");
    });
  }
  server.registerTool("test_tool_with_progress", { description: "Reports progress" }, async (context) => {
    const progressToken = context.mcpReq._meta?.progressToken;
    for (const progress of [0, 50, 100]) {
      if (progressToken !== undefined) {
        const params = { progressToken, progress, total: 100, message: `${progress} of 100` };
        await context.mcpReq.notify({ method: "notifications/progress", params });
      }
      await pause(50);
    }
    return text("progressed");
  });
  server.registerTool("test_reconnection", { description: "Lets its stream end before it answers" }, async (context) => {
    context.http?.closeSSE?.();
    await pause(100);
    return text("reconnected");
  });
  const forever = { description: "Runs until it is cancelled", inputSchema: zod.object({}) };
  server.registerTool("test_until_cancelled", forever, async (_, context) => {
    await new Promise((resolve) => context.mcpReq.signal.addEventListener("abort", resolve, { once: true }));
    cancelled += 1;
    return text("cancelled");
  });
  server.registerTool("test_count_cancelled", { description: "How many calls were cancelled" }, async () =>
    text(String(cancelled)),
  );
}

let cancelled = 0;

// --- tools that ask the client in the middle (2025-11-25)

function asking({ server, zod, era }) {
  if (era !== "legacy") return;
  // Without it the SDK asks on the session's GET stream, and what it asks before that stream is open is lost.
  const onItsOwnStream = (context) => ({ relatedRequestId: context.mcpReq.id });
  const elicit = async (context, params) => {
    const { action, content } = await context.mcpReq.elicitInput(params, onItsOwnStream(context));
    return { action, content: JSON.stringify(content ?? {}) };
  };
  const sampling = { description: "Asks the client's model", inputSchema: zod.object({ prompt: zod.string() }) };
  server.registerTool("test_sampling", sampling, async ({ prompt }, context) => {
    const messages = [{ role: "user", content: { type: "text", text: prompt } }];
    const asked = { messages, maxTokens: 100 };
    const answer = await context.mcpReq.requestSampling(asked, onItsOwnStream(context));
    return text(`LLM response: ${answer.content.text ?? ""}`);
  });
  const elicitation = { description: "Asks the user", inputSchema: zod.object({ message: zod.string() }) };
  server.registerTool("test_elicitation", elicitation, async ({ message }, context) => {
    const requestedSchema = {
      type: "object",
      properties: {
        username: { type: "string", description: "User's response" },
        email: { type: "string", description: "User's email address" },
      },
      required: ["username", "email"],
    };
    const { action, content } = await elicit(context, { message, requestedSchema });
    return text(`User response: action=${action}, content=${content}`);
  });
  const forms = {
    test_elicitation_sep1034_defaults: {
      name: { type: "string", default: "John Doe" },
      age: { type: "integer", default: 30 },
      score: { type: "number", default: 95.5 },
      status: { type: "string", enum: ["active", "inactive", "pending"], default: "active" },
      verified: { type: "boolean", default: true },
    },
    test_elicitation_sep1330_enums: enums(),
  };
  for (const [name, properties] of Object.entries(forms)) {
    server.registerTool(name, { description: "Asks the user with a form" }, async (context) => {
      const params = { message: "Please fill in", requestedSchema: { type: "object", properties } };
      const { action, content } = await elicit(context, params);
      return text(`Elicitation completed: action=${action}, content=${content}`);
    });
  }
}

function enums() {
  const titled = (first) => [
    { const: "value1", title: `First ${first}` },
    { const: "value2", title: `Second ${first}` },
    { const: "value3", title: `Third ${first}` },
  ];
  const options = ["option1", "option2", "option3"];
  return {
    untitledSingle: { type: "string", enum: options },
    titledSingle: { type: "string", oneOf: titled("Option") },
    legacyEnum: {
      type: "string",
      enum: ["opt1", "opt2", "opt3"],
      enumNames: ["Option One", "Option Two", "Option Three"],
    },
    untitledMulti: { type: "array", items: { type: "string", enum: options } },
    titledMulti: { type: "array", items: { anyOf: titled("Choice") } },
  };
}

// --- tools that are called again with what they asked for (2026-07-28)

const form = (name, type) => ({ type: "object", properties: { [name]: { type } }, required: [name] });

function inputRequired({ server, sdk, state, era }) {
  if (era !== "modern") return;
  const ask = sdk.inputRequired;
  const name = (message) => ask.elicit({ message, requestedSchema: form("name", "string") });
  const sample = (question, maxTokens) =>
    ask.createMessage({ messages: [{ role: "user", content: { type: "text", text: question } }], maxTokens });
  const tool = (tool, run) => {
    const config = { description: "Needs input" };
    server.registerTool(`test_input_required_result_${tool}`, config, (context) => run(context.mcpReq));
  };
  const content = (call, key) => sdk.acceptedContent(call.inputResponses, key);
  const view = (call, key) => sdk.inputResponse(call.inputResponses, key);

  tool("elicitation", async (call) => {
    const given = content(call, "user_name");
    if (typeof given?.name === "string") return text(`Hello, ${given.name}!`);
    return ask({ inputRequests: { user_name: name("What is your name?") } });
  });
  tool("sampling", async (call) => {
    const given = view(call, "capital_question");
    if (given.kind === "sampling") return text(given.result.content.text ?? "");
    return ask({ inputRequests: { capital_question: sample("What is the capital of France?", 100) } });
  });
  tool("list_roots", async (call) => {
    const given = view(call, "client_roots");
    if (given.kind === "roots") return text(`Roots: ${given.roots.map((root) => root.uri).join(", ")}`);
    return ask({ inputRequests: { client_roots: ask.listRoots() } });
  });
  for (const kind of ["request_state", "tampered_state"]) {
    tool(kind, async (call) => {
      if (content(call, "confirm") !== undefined && call.requestState()?.kind === kind) return text("state-ok");
      const confirm = ask.elicit({ message: "Please confirm", requestedSchema: form("ok", "boolean") });
      return ask({ inputRequests: { confirm }, requestState: await state.mint({ kind }) });
    });
  }
  tool("multiple_inputs", async (call) => {
    const kinds = ["user_name", "greeting", "client_roots"].map((key) => view(call, key).kind);
    if (!kinds.includes("missing")) return text(`Got ${kinds.join(", ")}`);
    return ask({
      inputRequests: {
        user_name: name("What is your name?"),
        greeting: sample("Generate a greeting", 50),
        client_roots: ask.listRoots(),
      },
      requestState: await state.mint({ kind: "multiple" }),
    });
  });
  tool("multi_round", async (call) => {
    const before = call.requestState();
    const second = content(call, "step2");
    if (before?.step === 2 && second) return text(`${before.name} likes ${second.color}`);
    const first = content(call, "step1");
    if (before?.step === 1 && first) {
      const message = "Step 2: What is your favorite color?";
      const step2 = ask.elicit({ message, requestedSchema: form("color", "string") });
      return ask({ inputRequests: { step2 }, requestState: await state.mint({ step: 2, name: first.name }) });
    }
    const step1 = name("Step 1: What is your name?");
    return ask({ inputRequests: { step1 }, requestState: await state.mint({ step: 1 }) });
  });
  tool("capabilities", async (call) => {
    const can = call.envelope?.["io.modelcontextprotocol/clientCapabilities"] ?? {};
    const inputRequests = {};
    if (can.elicitation) inputRequests.user_name = name("What is your name?");
    if (can.sampling) inputRequests.greeting = sample("Generate a greeting", 50);
    if (can.roots) inputRequests.client_roots = ask.listRoots();
    const done = Object.keys(inputRequests).length === 0 || call.inputResponses !== undefined;
    return done ? text("nothing more is needed") : ask({ inputRequests });
  });
}

// --- tools by which the suite makes things happen

function diagnostics({ server, sdk, era, changes }) {
  if (era !== "modern") return;
  server.registerTool("test_missing_capability", { description: "Needs sampling" }, async (context) => {
    if (context.mcpReq.inputResponses !== undefined) return text("sampling is there");
    const messages = [{ role: "user", content: { type: "text", text: "Anybody there?" } }];
    const model = sdk.inputRequired.createMessage({ messages, maxTokens: 10 });
    return sdk.inputRequired({ inputRequests: { model } });
  });
  server.registerTool("test_streaming_elicitation", { description: "Streams, then asks" }, async (context) => {
    const given = sdk.acceptedContent(context.mcpReq.inputResponses, "user_name");
    if (given) return text(`Hello, ${given.name}!`);
    const requestedSchema = form("name", "string");
    return sdk.inputRequired({ inputRequests: { user_name: sdk.inputRequired.elicit({ message: "Who?", requestedSchema }) } });
  });
  const triggers = { test_trigger_tool_change: "toolsChanged", test_trigger_prompt_change: "promptsChanged" };
  for (const [name, change] of Object.entries(triggers)) {
    server.registerTool(name, { description: "Tells subscribers of a change" }, async () => {
      changes[change]();
      return text("changed");
    });
  }
}

// --- resources and prompts

function resources({ server, sdk, era }) {
  const plain = (uri, mimeType, body) =>
    server.registerResource(uri.slice(7), uri, { mimeType }, async () => ({ contents: [{ uri, mimeType, ...body }] }));
  plain("test://static-text", "text/plain", { text: "This is the content of the static text resource." });
  plain("test://static-binary", "image/png", { blob: PNG });
  plain("test://watched-resource", "text/plain", { text: "Watched." });
  const template = new sdk.ResourceTemplate("test://template/{id}/data", { list: undefined });
  server.registerResource("template", template, { mimeType: "application/json" }, async (uri, { id }) => {
    const data = JSON.stringify({ id, templateTest: true, data: `Data for ID: ${id}` });
    return { contents: [{ uri: uri.href, mimeType: "application/json", text: data }] };
  });
  if (era === "legacy") {
    const watched = new Set();
    server.server.setRequestHandler("resources/subscribe", async ({ params }) => {
      watched.add(params.uri);
      return {};
    });
    server.server.setRequestHandler("resources/unsubscribe", async ({ params }) => {
      watched.delete(params.uri);
      return {};
    });
  }
}

function prompts({ server, sdk, zod, era }) {
  const user = (content) => ({ role: "user", content });
  const said = (words) => user({ type: "text", text: words });
  server.registerPrompt("test_simple_prompt", { description: "Simple" }, async () => ({
    messages: [said("This is a simple prompt for testing.")],
  }));
  const argument = sdk.completable(zod.string(), (value) => ["paris", "park", "party"].filter((s) => s.startsWith(value)));
  const two = { description: "With arguments", argsSchema: zod.object({ arg1: argument, arg2: zod.string() }) };
  server.registerPrompt("test_prompt_with_arguments", two, async ({ arg1, arg2 }) => ({
    messages: [said(`Prompt with arguments: arg1='${arg1}', arg2='${arg2}'`)],
  }));
  const one = { description: "With a resource", argsSchema: zod.object({ resourceUri: zod.string() }) };
  server.registerPrompt("test_prompt_with_embedded_resource", one, async ({ resourceUri }) => {
    const resource = { uri: resourceUri, mimeType: "text/plain", text: "Embedded resource content for testing." };
    return { messages: [user({ type: "resource", resource }), said("Please process the embedded resource above.")] };
  });
  server.registerPrompt("test_prompt_with_image", { description: "With an image" }, async () => ({
    messages: [user({ type: "image", data: PNG, mimeType: "image/png" }), said("Please analyze the image above.")],
  }));
  if (era === "modern") {
    server.registerPrompt("test_input_required_result_prompt", { description: "Needs input" }, async (context) => {
      const given = sdk.acceptedContent(context.mcpReq.inputResponses, "user_context");
      if (given) return { messages: [said(`With ${given.context}`)] };
      const message = "What context should the prompt use?";
      const user_context = sdk.inputRequired.elicit({ message, requestedSchema: form("context", "string") });
      return sdk.inputRequired({ inputRequests: { user_context } });
    });
  }
}
