/** Tools under the further names by which some chat templates look for them. */

/** Names of tools that models bring along themselves, in templates that know `builtin_tools`. */
const BUILTIN_TOOLS: ReadonlySet<string> = new Set([
  'browser',
  'python',
  'code_interpreter',
  'web_search',
  'brave_search',
  'wolfram_alpha',
]);

/** Further variables under which some templates look for tools. Only those that the template mentions. */
export function toolVariables(
  source: string,
  tools: readonly { readonly function: { readonly name: string } }[] | undefined,
): { readonly xml_tools?: readonly unknown[]; readonly builtin_tools?: readonly string[] } {
  if (!tools || tools.length === 0) return {};
  const builtin = tools.map((tool) => tool.function.name).filter((name) => BUILTIN_TOOLS.has(name));
  return {
    ...(source.includes('xml_tools') ? { xml_tools: tools } : {}),
    ...(builtin.length > 0 && source.includes('builtin_tools') ? { builtin_tools: builtin } : {}),
  };
}
