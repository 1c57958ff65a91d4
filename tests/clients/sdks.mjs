// The SDKs of OpenAI and Anthropic for Node, on the gateway: a tool round trip, streamed, by each.
// Prints one JSON object.
import { createRequire } from 'node:module';

const { CLIENTS, GATEWAY, KEY, MODEL } = process.env;
const require = createRequire(`${CLIENTS}/`);
const OpenAI = require('openai').default;
const Anthropic = require('@anthropic-ai/sdk').default;

const parameters = { type: 'object', properties: { command: { type: 'string' } } };
const asked = { role: 'user', content: 'run echo hello' };

async function chat() {
  const client = new OpenAI({ baseURL: `${GATEWAY}/v1`, apiKey: KEY, maxRetries: 0 });
  const tools = [{ type: 'function', function: { name: 'exec', parameters } }];
  const first = await client.chat.completions
    .stream({ model: MODEL, messages: [asked], tools })
    .finalChatCompletion();
  const message = first.choices[0].message;
  const [call] = message.tool_calls;
  const result = { role: 'tool', tool_call_id: call.id, content: 'hello' };
  const second = await client.chat.completions.create({
    model: MODEL,
    messages: [asked, message, result],
    tools,
    max_completion_tokens: 8,
  });
  return { call: call.function, text: second.choices[0].message.content, usage: second.usage };
}

async function responses() {
  const client = new OpenAI({ baseURL: `${GATEWAY}/v1`, apiKey: KEY, maxRetries: 0 });
  const tools = [{ type: 'function', name: 'exec', parameters, strict: false }];
  const first = await client.responses
    .stream({ model: MODEL, input: [asked], tools, store: false })
    .finalResponse();
  const call = first.output.find((item) => item.type === 'function_call');
  const result = { type: 'function_call_output', call_id: call.call_id, output: 'hello' };
  const second = await client.responses.create({
    model: MODEL,
    input: [asked, ...first.output, result],
    tools,
    store: false,
    max_output_tokens: 16,
  });
  return { call: { name: call.name, arguments: call.arguments }, text: second.output_text };
}

async function messages() {
  const client = new Anthropic({ baseURL: GATEWAY, authToken: KEY, apiKey: null, maxRetries: 0 });
  const tools = [{ name: 'exec', input_schema: parameters }];
  const first = await client.messages
    .stream({ model: MODEL, max_tokens: 500, messages: [asked], tools })
    .finalMessage();
  const call = first.content.find((block) => block.type === 'tool_use');
  const result = { type: 'tool_result', tool_use_id: call.id, content: 'hello' };
  const second = await client.messages.create({
    model: MODEL,
    max_tokens: 8,
    messages: [
      asked,
      { role: 'assistant', content: first.content },
      { role: 'user', content: [result] },
    ],
    tools,
  });
  const counted = await client.messages.countTokens({ model: MODEL, messages: [asked] });
  return { call: { name: call.name, arguments: JSON.stringify(call.input) },
    text: second.content[0].text, counted: counted.input_tokens };
}

async function refused() {
  const client = new OpenAI({ baseURL: `${GATEWAY}/v1`, apiKey: 'wrong', maxRetries: 2 });
  try {
    await client.models.list();
  } catch (error) {
    return { status: error.status, code: error.code };
  }
  return {};
}

console.log(JSON.stringify({
  chat: await chat(),
  responses: await responses(),
  messages: await messages(),
  refused: await refused(),
}));
