// Node's own HTTP/2 client on the gateway: streams side by side on one session, one that is
// aborted, and the end that the gateway asks for. Prints one JSON object.
import http2 from 'node:http2';
import { readFileSync } from 'node:fs';

const { GATEWAY, KEY, MODEL, AUTHORITY } = process.env;
const session = http2.connect(GATEWAY, { ca: readFileSync(AUTHORITY) });
const head = {
  ':method': 'POST',
  ':path': '/v1/chat/completions',
  authorization: `Bearer ${KEY}`,
  'content-type': 'application/json',
};

function ask(tokens, content = 'Hi') {
  const stream = session.request(head);
  stream.setEncoding('utf8');
  const messages = [{ role: 'user', content }];
  stream.end(JSON.stringify({ model: MODEL, messages, max_tokens: tokens, stream: true }));
  return stream;
}

async function whole(stream) {
  let text = '';
  for await (const piece of stream) text += piece;
  return text;
}

const texts = await Promise.all(Array.from({ length: 20 }, () => whole(ask(10))));
const large = await whole(ask(1, 'word '.repeat(50000)));
const aborted = ask(100000, 'tell me a long story');
await new Promise((resolve) => aborted.once('data', resolve));
aborted.close(http2.constants.NGHTTP2_CANCEL);
await new Promise((resolve) => aborted.once('close', resolve));
const after = await whole(ask(5));
await new Promise((resolve) => session.close(resolve));
const ends = (text) => text.trimEnd().endsWith('data: [DONE]');
console.log(JSON.stringify({ done: texts.filter(ends).length, large: ends(large), after: ends(after) }));
