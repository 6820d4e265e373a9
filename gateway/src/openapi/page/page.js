// The reference page: reads /openapi.json and shows it. Everything that comes from the document is set as text, never as markup.
"use strict";

const VERBS = ["get", "post", "put", "patch", "delete"];
const byId = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  for (const child of children.flat()) if (child !== null) element.append(child);
  return element;
}

let doc;
const resolve = (schema) => {
  const name = schema && schema.$ref && schema.$ref.split("/").pop();
  return name ? { ...doc.components.schemas[name], ...schema, $ref: undefined, name } : schema || {};
};
// What null adds to a schema is the same everywhere, and not shown.
const plain = (schema) => {
  if (!schema.anyOf) return schema;
  const any = schema.anyOf.filter((one) => one.type !== "null");
  return any.length >= 1 ? { ...any[0], ...schema, anyOf: undefined } : schema;
};

function typeOf(given) {
  const schema = plain(resolve(plain(given)));
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  const type = [].concat(schema.type || "any").filter((one) => one !== "null");
  if (type[0] === "array") return `array of ${typeOf(schema.items || {})}`;
  if (schema.name) return schema.name.replace(/\.In$/, "");
  if (type[0] === "object" && schema.additionalProperties && schema.additionalProperties !== true) {
    return `map of ${typeOf(schema.additionalProperties)}`;
  }
  return type.join(" or ") + (schema.format ? ` (${schema.format})` : "");
}

// The object whose fields a schema leads to, if it leads to one.
function fieldsOf(given) {
  const schema = plain(resolve(plain(given)));
  if (schema.properties) return schema;
  if (schema.items) return fieldsOf(schema.items);
  if (schema.additionalProperties && schema.additionalProperties !== true) return fieldsOf(schema.additionalProperties);
  return null;
}

function showFields(schema) {
  const list = make("ul", { class: "schema" });
  for (const [name, field] of Object.entries(schema.properties || {})) {
    const required = (schema.required || []).includes(name) ? " (required)" : "";
    const item = make("li", {}, make("code", {}, name), " ", make("span", { class: "type" }, typeOf(field) + required));
    if (field.description) item.append(make("div", { class: "text" }, field.description));
    const inner = fieldsOf(field);
    if (inner && Object.keys(inner.properties).length > 0) {
      // Made when it is opened: a message may lead to itself.
      const details = make("details", {}, make("summary", {}, "fields"));
      details.addEventListener("toggle", () => {
        if (details.open && details.children.length === 1) details.append(showFields(inner));
      });
      item.append(details);
    }
    list.append(item);
  }
  return list;
}

function example(given, depth = 0) {
  const schema = plain(resolve(plain(given)));
  if (schema.examples && schema.examples.length > 0) return schema.examples[0];
  if (schema.enum) return schema.enum.find((value) => !/UNSPECIFIED$/.test(value)) ?? schema.enum[0];
  const type = [].concat(schema.type || [])[0];
  if (type === "object" && schema.properties && depth < 3) {
    const excluded = new Set((schema.allOf || []).map((rule) => rule.not && rule.not.required && rule.not.required[1]));
    const fields = Object.entries(schema.properties).filter(([name]) => !excluded.has(name));
    return Object.fromEntries(fields.map(([name, field]) => [name, example(field, depth + 1)]));
  }
  if (type === "object") return {};
  if (type === "array") return depth < 3 ? [example(schema.items || {}, depth + 1)] : [];
  if (type === "integer" || type === "number") return 0;
  if (type === "boolean") return false;
  if (schema.format === "date-time") return "2026-01-31T12:00:00Z";
  if (schema.format === "int64" || schema.format === "uint64") return "0";
  return type === "string" ? "" : null;
}

function bodyOf(operation) {
  const content = operation.requestBody && operation.requestBody.content;
  const media = content && Object.keys(content)[0];
  return media ? { media, schema: content[media].schema } : null;
}

function curl(verb, path, operation) {
  const quote = (text) => `'${String(text).replaceAll("'", "'\\''")}'`;
  const parts = [`curl -s ${verb === "get" ? "" : `-X ${verb.toUpperCase()} `}${quote(location.origin + path)}`];
  const security = (operation.security || [])[0] || {};
  if (security.bearer) parts.push(`-H "authorization: Bearer $TOKEN"`);
  if (security.operator) parts.push(`-H "x-operator-key: $OPERATOR_KEY"`);
  const body = bodyOf(operation);
  if (body) {
    parts.push(`-H 'content-type: ${body.media === "*/*" ? "application/octet-stream" : body.media}'`);
    parts.push(`-d ${quote(body.media === "*/*" ? "" : JSON.stringify(example(body.schema)))}`);
  }
  return parts.join(" \\\n  ");
}

function tryIt(verb, path, operation) {
  const inputs = {};
  const rows = (operation.parameters || []).map((parameter) => {
    inputs[parameter.name] = make("input", { "aria-label": parameter.name, placeholder: typeOf(parameter.schema) });
    return make("tr", {}, make("td", {}, make("code", {}, parameter.name)), make("td", {}, inputs[parameter.name]));
  });
  const body = bodyOf(operation);
  const text = body ? make("textarea", { "aria-label": "body" }) : null;
  if (text) text.value = body.media === "*/*" ? "" : JSON.stringify(example(body.schema), null, 2);
  const answer = make("div");
  const send = make("button", { type: "button" }, "Send");
  send.addEventListener("click", async () => {
    const query = new URLSearchParams();
    const headers = {};
    let target = path;
    for (const parameter of operation.parameters || []) {
      const value = inputs[parameter.name].value;
      if (parameter.in === "path") {
        const encode = parameter["x-tenon-segments"] ? (part) => part.split("/").map(encodeURIComponent).join("/") : encodeURIComponent;
        target = target.replace(`{${parameter.name}}`, encode(value));
      } else if (value !== "" && parameter.in === "query") {
        query.append(parameter.name, value);
      } else if (value !== "") {
        headers[parameter.name] = value;
      }
    }
    if (byId("token").value) headers.authorization = `Bearer ${byId("token").value}`;
    if (body) headers["content-type"] = body.media === "*/*" ? "application/octet-stream" : body.media;
    answer.replaceChildren("…");
    try {
      const response = await fetch(target + (query.size ? `?${query}` : ""), { method: verb.toUpperCase(), headers, body: text ? text.value : undefined });
      let said = await response.text();
      try { said = JSON.stringify(JSON.parse(said), null, 2); } catch { /* it is no JSON */ }
      answer.replaceChildren(make("p", { class: "status" }, `${response.status} ${response.statusText}`), make("pre", {}, said));
    } catch (error) {
      answer.replaceChildren(make("p", { class: "status" }, String(error)));
    }
  });
  return make("details", {}, make("summary", {}, "Try it"), make("table", {}, rows), text, make("p", {}, send), answer);
}

function show(verb, path, operation) {
  const section = make("section", { id: operation.operationId });
  section.append(make("h3", {}, make("span", { class: `verb ${verb}` }, verb.toUpperCase()), " ", make("code", {}, path)));
  section.append(make("div", { class: "text" }, operation.description || ""));
  section.append(make("p", { class: "type" }, "gRPC: ", make("code", {}, operation["x-grpc-method"] || "")));
  if ((operation.parameters || []).length > 0) {
    const row = (parameter) => make("tr", {}, make("td", {}, make("code", {}, parameter.name)), make("td", {}, parameter.in),
      make("td", { class: "type" }, typeOf(parameter.schema)), make("td", { class: "text" }, parameter.description || ""));
    section.append(make("h4", {}, "Parameters"), make("table", {}, operation.parameters.map(row)));
  }
  const body = bodyOf(operation);
  if (body) {
    section.append(make("h4", {}, `Body: ${body.media}`));
    const fields = fieldsOf(body.schema);
    section.append(fields ? showFields(fields) : make("p", { class: "type" }, typeOf(body.schema)));
  }
  const content = operation.responses["200"].content || {};
  for (const [media, { schema }] of Object.entries(content)) {
    section.append(make("h4", {}, `Answer: ${media}`));
    const fields = fieldsOf(schema);
    section.append(fields ? showFields(fields) : make("p", { class: "type" }, typeOf(schema)));
  }
  section.append(make("pre", {}, curl(verb, path, operation)), tryIt(verb, path, operation));
  return section;
}

function list(filter) {
  const index = byId("index");
  const main = byId("main");
  index.replaceChildren();
  main.replaceChildren(make("p", { class: "text" }, doc.info.description || ""));
  for (const tag of doc.tags || []) {
    const found = [];
    for (const [path, item] of Object.entries(doc.paths)) {
      for (const verb of VERBS) {
        const operation = item[verb];
        const text = operation && `${verb} ${path} ${operation.operationId} ${operation.description}`.toLowerCase();
        if (operation && operation.tags[0] === tag.name && text.includes(filter)) found.push([verb, path, operation]);
      }
    }
    if (found.length === 0) continue;
    index.append(make("h2", {}, tag.name));
    main.append(make("h2", {}, tag.name), make("p", { class: "text" }, tag.description || ""));
    for (const [verb, path, operation] of found) {
      const name = operation.operationId.split("_").slice(1).join("_");
      index.append(make("a", { class: "operation", href: `#${operation.operationId}` }, make("span", { class: `verb ${verb}` }, verb.toUpperCase()), " ", name));
      main.append(show(verb, path, operation));
    }
  }
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

fetch("/openapi.json").then(async (response) => {
  doc = await response.json();
  document.title = `${doc.info.title}: API reference`;
  byId("title").textContent = doc.info.title;
  byId("version").textContent = doc.info.version;
  byId("search").addEventListener("input", (event) => list(event.target.value.trim().toLowerCase()));
  list("");
}).catch((error) => byId("main").replaceChildren(make("p", {}, `/openapi.json cannot be read: ${error}`)));
