// The description of the interface for people: drawn from /openapi.json, as text nodes alone.
'use strict';

const main = document.getElementById('main');

function el(name, about = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(about)) made.setAttribute(key, value);
  made.append(...children.flat().filter(Boolean));
  return made;
}

/** A schema in words. */
function words(schema) {
  if (!schema) return '';
  if (schema.$ref) return schema.$ref.split('/').pop();
  if (schema.enum) return schema.enum.join(', ');
  if (schema.type === 'array') return `list of ${words(schema.items)}`;
  const kind = Array.isArray(schema.type) ? schema.type.join(' or ') : schema.type || 'anything';
  const more = ['minimum', 'maximum', 'maxLength', 'pattern'].filter(key => schema[key] !== undefined)
    .map(key => `${key} ${schema[key]}`).join(', ');
  return more ? `${kind} (${more})` : kind;
}

function table(caption, columns, rows) {
  return rows.length > 0 && el('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': caption }, el('table', {},
    el('caption', {}, caption), el('thead', {}, el('tr', {}, columns.map(name => el('th', { scope: 'col' }, name)))),
    el('tbody', {}, rows.map(row => el('tr', {}, row.map(cell => el('td', {}, cell)))))));
}

function operation(path, method, about) {
  const body = about.requestBody && Object.entries(about.requestBody.content)[0];
  const answers = Object.entries(about.responses).map(([status, answer]) => {
    const content = Object.entries(answer.content || {})[0];
    return [status, answer.description || '', content ? `${words(content[1].schema)} (${content[0]})` : ''];
  });
  return el('details', { class: 'card' },
    el('summary', {}, el('strong', {}, method.toUpperCase()), ' ', el('code', {}, path), ` ${about.summary}`),
    table('What is sent', ['Name', 'Where', 'What'], about.parameters.map(one => [
      one.required ? `${one.name} (required)` : one.name, one.in, words(one.schema)])),
    body && el('p', {}, `Body: ${body[1].schema ? words(body[1].schema) : 'bytes'} (${body[0]})`),
    table('Answers', ['Status', 'When', 'What'], answers));
}

function schema(name, about) {
  const required = about.required || [];
  return el('details', { class: 'card', id: `schema-${name}` }, el('summary', {}, el('strong', {}, name)),
    about.properties ? table(name, ['Field', 'What'], Object.entries(about.properties).map(([field, of]) => [
      required.includes(field) ? `${field} (required)` : field, words(of)])) : el('p', {}, words(about)));
}

(async () => {
  try {
    const answer = await fetch('/openapi.json');
    const about = await answer.json();
    const operations = Object.entries(about.paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, of]) => operation(path, method, of)));
    main.replaceChildren(el('h2', {}, `${about.info.title} ${about.info.version}`),
      el('p', {}, 'Send a token as Authorization: Bearer, where the server asks for one. Refusals are problem details (RFC 9457).'),
      el('h3', {}, 'Operations'), ...operations, el('h3', {}, 'Schemas'),
      ...Object.entries(about.components.schemas).map(([name, of]) => schema(name, of)));
  } catch (error) {
    main.replaceChildren(el('p', { class: 'error', role: 'alert' }, `The description cannot be read: ${error.message}`));
  }
})();
document.querySelector('.skip').addEventListener('click', event => { event.preventDefault(); main.focus(); });
