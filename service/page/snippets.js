/** The request as others would send it: a curl line and a Python snippet, each of which writes the file. */

import { key } from "./api.js";
import { toBody } from "./settings.js";

const url = () => new URL("generate", document.baseURI.split("#")[0]).href;
const quoted = (text) => `'${text.replaceAll("'", String.raw`'\''`)}'`;

export function fileName({ method, label, steps, seed }) {
  return `${[method, label, `${steps}-steps`, `seed-${seed}`].filter(Boolean).join("-")}.png`.replace(/[^\w.-]+/g, "_");
}

export function curl(settings) {
  const secret = key() ? ` -H "Authorization: Bearer $TRILEMMA_KEY"` : "";
  return [
    `curl -sS --fail-with-body ${quoted(url())} -H 'Accept: image/png' -H 'Content-Type: application/json'${secret} \\`,
    `  -d ${quoted(toBody(settings))} -o ${quoted(fileName(settings))}`,
  ].join("\n");
}

export function python(settings) {
  const secret = key() ? [`    "Authorization": "Bearer " + os.environ["TRILEMMA_KEY"],`] : [];
  return [
    `import json${secret.length ? ", os" : ""}`,
    "from urllib.request import Request, urlopen",
    "",
    `body = ${toBody(settings)}`,
    "headers = {",
    `    "Accept": "image/png",`,
    `    "Content-Type": "application/json",`,
    ...secret,
    "}",
    `with urlopen(Request(${JSON.stringify(url())}, json.dumps(body).encode(), headers)) as answer:`,
    `    open(${JSON.stringify(fileName(settings))}, "wb").write(answer.read())`,
    "",
  ].join("\n");
}
