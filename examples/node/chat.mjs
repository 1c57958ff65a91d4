// A client for moegate in one page: streams the answer to one prompt. The protos are all it needs.
//
//   node chat.mjs 127.0.0.1:50051 MODEL "Why is the sky blue?"
//
// The key comes from the environment variable MOEGATE_API_KEY.
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';

const DEADLINE_MS = 120_000;

const [target, model, ...words] = process.argv.slice(2);
if (!target || !model || words.length === 0) {
  console.error('usage: node chat.mjs TARGET MODEL PROMPT...   (key: MOEGATE_API_KEY)');
  process.exit(2);
}

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const definition = protoLoader.loadSync('moegate/v1/inference.proto', {
  includeDirs: [here('../../protos')],
  keepCase: true, // names as in the protos
  enums: String,
  longs: Number,
  defaults: true,
  oneofs: true, // tells whether an optional field is there
});
const { InferenceService } = grpc.loadPackageDefinition(definition).moegate.v1;

// The service config retries calls to a server that is down or full. It never repeats a stream
// that has begun, and waits as long as the server asks (grpc-retry-pushback-ms).
const client = new InferenceService(target, grpc.credentials.createInsecure(), {
  'grpc.service_config': readFileSync(here('../service_config.json'), 'utf8'),
});

const metadata = new grpc.Metadata();
metadata.set('authorization', `Bearer ${process.env.MOEGATE_API_KEY ?? ''}`);

const call = client.Generate(
  {
    model,
    chat: { messages: [{ role: 'ROLE_USER', parts: [{ text: words.join(' ') }] }] },
    max_output_tokens: 64,
    slo: { slo_class: 'SLO_CLASS_INTERACTIVE' },
  },
  metadata,
  { deadline: Date.now() + DEADLINE_MS },
);

call.on('data', ({ delta, done }) => {
  for (const choice of delta?.choices ?? []) process.stdout.write(choice.text);
  if (done) {
    // Always the last message of a complete answer.
    const { usage, route, cost } = done;
    const nano_usd = cost?._metered_nano_usd ? cost.metered_nano_usd : undefined;
    process.stdout.write(
      `\n${usage.prompt_tokens} tokens in, ${usage.completion_tokens} out, ` +
        `ran on ${route.target} (${route.reason}), ` +
        (nano_usd === undefined ? 'cost unknown\n' : `cost $${(nano_usd / 1e9).toFixed(9)}\n`),
    );
  }
});
call.on('error', (error) => {
  const [pushback_ms] = error.metadata?.get('grpc-retry-pushback-ms') ?? [];
  const retry = Number(pushback_ms) > 0 ? ` (try again in ${pushback_ms / 1000} s)` : '';
  console.error(`${grpc.status[error.code]}: ${error.details}${retry}`);
  process.exitCode = 1;
  client.close();
});
call.on('end', () => client.close());
