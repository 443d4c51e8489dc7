// Shows the OpenAPI document of the server: its routes by their API, with the fields they take
// and give.

const made = (tag, text = "", className = "") => {
  const element = document.createElement(tag);
  element.textContent = text;
  if (className) element.className = className;
  return element;
};

const nameOf = (schema) => schema.$ref?.split("/").pop();

function typeOf(schema) {
  if (!schema) return "anything";
  if (schema.$ref) return nameOf(schema);
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" | ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.type === "array") return `[${typeOf(schema.items)}]`;
  return schema.type ?? "anything";
}

// The fields of an object as lines: name, type, default; those of what it holds below it.
function fieldsOf(schema, schemas, depth = 0) {
  const names = new Set();
  const lines = [];
  const inner = (part) => {
    if (!part) return;
    if (nameOf(part)) names.add(nameOf(part));
    for (const child of [...(part.anyOf ?? []), part.items]) inner(child);
  };
  const own = schema.$ref ? schemas[nameOf(schema)] : schema;
  if (own.description && schema.$ref) lines.push(`${"  ".repeat(depth)}# ${own.description}`);
  for (const [name, field] of Object.entries(own.properties ?? {})) {
    const needed = own.required?.includes(name);
    const usual = "default" in field ? ` = ${JSON.stringify(field.default)}` : "";
    lines.push(`${"  ".repeat(depth)}${name}${needed ? "" : "?"}: ${typeOf(field)}${usual}`);
    const before = names.size;
    inner(field);
    if (names.size > before && depth < 4) {
      for (const child of [...names].slice(before)) {
        lines.push(...fieldsOf({ $ref: `#/${child}` }, schemas, depth + 1));
      }
    }
  }
  if (!own.properties) {
    lines.push(`${"  ".repeat(depth)}${typeOf(own)}`);
    inner(own);
    for (const child of names) lines.push(...fieldsOf({ $ref: `#/${child}` }, schemas, depth + 1));
  }
  return lines;
}

function routeOf(path, method, operation, schemas) {
  const details = made("details");
  const summary = made("summary");
  summary.append(made("span", method.toUpperCase(), "method"), made("code", path));
  summary.append(document.createTextNode(` ${operation.summary}`));
  details.append(summary);
  const shapes = [
    ["Takes", operation.requestBody?.content],
    ["Gives", operation.responses["200"].content],
  ];
  for (const parameter of operation.parameters ?? []) {
    const where = `${parameter.name} (${parameter.in}): ${typeOf(parameter.schema)}`;
    details.append(made("p", where));
  }
  for (const [title, content] of shapes) {
    if (!content) continue;
    details.append(made("p", `${title} ${Object.keys(content).join(" or ")}`));
    const lines = fieldsOf(Object.values(content)[0].schema, schemas);
    details.append(made("pre", lines.join("\n")));
  }
  return details;
}

async function show() {
  const routes = document.getElementById("routes");
  try {
    const answer = await fetch("openapi.json");
    const api = await answer.json();
    const groups = new Map();
    for (const [path, operations] of Object.entries(api.paths)) {
      for (const [method, operation] of Object.entries(operations)) {
        const group = operation.tags[0];
        if (!groups.has(group)) groups.set(group, []);
        groups.get(group).push(routeOf(path, method, operation, api.components.schemas));
      }
    }
    routes.replaceChildren();
    for (const [group, elements] of groups) {
      routes.append(made("h2", group === "tercet" ? "Tercet's own" : `As ${group}`), ...elements);
    }
  } catch (error) {
    routes.textContent = `The document cannot be read: ${error.message}`;
  }
}

show();
