// What a page or a program does with OpenAI's package: whole images, a stream, and a refusal.
import OpenAI from "openai";

export async function generate(baseURL) {
  const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0, dangerouslyAllowBrowser: true });
  const request = { model: "toy", prompt: "one", size: "4x4", seed: 7, num_inference_steps: 4 };
  const whole = await client.images.generate({ ...request, n: 2 });
  const events = [];
  for await (const event of await client.images.generate({ ...request, stream: true, partial_images: 2 })) {
    events.push(event);
  }
  const refusal = await client.images.generate({ ...request, model: "none" }).catch((error) => error);
  return {
    files: whole.data.map((image) => image.b64_json),
    events: events.map((event) => event.type),
    streamed: events.at(-1).b64_json,
    refusal: [refusal.status, refusal.code],
  };
}
