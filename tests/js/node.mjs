// Usage: node node.mjs MODEL REQUESTS.json; prints the answers as JSON.
import { readFileSync } from "node:fs";
import * as ort from "onnxruntime-node";
import { answer } from "./answer.mjs";

const [model, requests] = process.argv.slice(2);
const found = await answer(ort, model, JSON.parse(readFileSync(requests, "utf8")));
console.log(JSON.stringify(found));
