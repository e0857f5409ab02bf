/** Calls in words. The words come from the decoded call data only; what has no words is shown as such, loudly. */

import type { ComponentChildren, JSX } from "preact";

import { useWords, type TextKey, type Words } from "../i18n";
import type { Action } from "../model";
import { sameAddress, useApp, useTokens } from "./app-state";
import { Facts, Hash, Untrusted, useMoney } from "./pieces";

const tokenContracts = new Set(["token", "quote", "asset"]);

// Calls that take money out of the protocol, or that change who has power over it.
const powerful = new Set([
  "pay", "transfer", "transferFrom", "tokenApprove", "etherSend", "grantRole", "revokeRole", "updateTimelock", "updateDelay",
  "relay", "execute", "executeBatch", "schedule", "scheduleBatch", "withdraw", "setOutflowCap", "setCeilings", "setRules",
  "appointGuardian", "setQuorum", "renounceRole",
]);

/** The function's name, as the messages `action.*` know it. */
export function verbOf(action: Action): string {
  if (action.kind === "unknown") return "unknown";
  if (action.kind === "ether.send") return "etherSend";
  const verb = action.kind.split(".").at(-1) ?? action.kind;
  const isToken = tokenContracts.has(action.kind.split(".")[0] ?? "");
  return isToken && verb === "approve" ? "tokenApprove" : verb;
}

const innerOf = (action: Action): Action[] => (action as Action & { inner?: Action[] }).inner ?? [];

/** The calls and all that they make in turn. */
export const flatten = (actions: Action[]): Action[] => actions.flatMap((one) => [one, ...flatten(innerOf(one))]);
export const isUnknown = (action: Action): boolean => action.kind === "unknown";
export const sendsValue = (action: Action): boolean => action.valueWei > 0n;
export const isPowerful = (action: Action): boolean => powerful.has(verbOf(action));

const isAddressText = (value: unknown): value is string => typeof value === "string" && /^0x[0-9a-fA-F]{40}$/.test(value);

function useAmounts(): (action: Action, name: string, amount: bigint) => string {
  const { config } = useApp();
  const words = useWords();
  const money = useMoney();
  const { quote, token } = useTokens();
  const protocol = config.deployment.protocol;
  const assets = Array.isArray(config.deployment.market?.assets) ? (config.deployment.market.assets as Record<string, unknown>[]) : [];
  return (action, name, amount) => {
    const of = action.args["asset"] ?? (tokenContracts.has(action.targetName ?? "") ? action.target : undefined);
    const verb = verbOf(action);
    if (action.kind === "ether.send") return words.units(amount, 18, 18);
    if (name === "capital" || verb === "allocate") return money.quote(amount);
    if (["fundRewards", "fundBounties", "setBudget", "withdraw"].includes(verb)) return money.token(amount);
    if (isAddressText(of)) {
      if (sameAddress(of, String(protocol["quote"]))) return words.units(amount, quote.decimals, 2);
      if (sameAddress(of, String(protocol["token"]))) return words.units(amount, token.decimals, 4);
      const asset = assets.find((one) => sameAddress(String(one["token"]), of));
      if (asset) return words.units(amount, Number(asset["decimals"]), 6);
    }
    return words.number(amount);
  };
}

function useSymbols(): (address: string) => string | null {
  const { config } = useApp();
  const { quote, token } = useTokens();
  const protocol = config.deployment.protocol;
  const assets = Array.isArray(config.deployment.market?.assets) ? (config.deployment.market.assets as Record<string, unknown>[]) : [];
  return (address) => {
    if (sameAddress(address, String(protocol["quote"]))) return quote.symbol;
    if (sameAddress(address, String(protocol["token"]))) return token.symbol;
    const asset = assets.find((one) => sameAddress(String(one["token"]), address));
    return asset ? String(asset["symbol"]) : null;
  };
}

function useFills(): (action: Action) => Record<string, ComponentChildren> {
  const words = useWords();
  const amountOf = useAmounts();
  const symbolOf = useSymbols();
  return (action) => {
    const fill: Record<string, ComponentChildren> = {
      contract: action.targetName ?? words.t("action.stranger"), function: <code>{action.kind.split(".").at(-1)}</code>,
    };
    for (const [name, value] of Object.entries(action.args)) {
      if (typeof value === "bigint" || typeof value === "number") {
        fill[name] = name === "expiresAt" ? words.date(Number(value)) : amountOf(action, name, BigInt(value));
      } else if (isAddressText(value)) {
        fill[name] = name === "asset" && symbolOf(value) ? symbolOf(value) : <Hash value={value} kind="address" />;
      } else if (typeof value === "string") {
        fill[name] = /^0x[0-9a-fA-F]+$/.test(value) ? <Hash value={value} /> : <Untrusted text={value} />;
      }
    }
    // Some ABIs call the amount `value`.
    fill["amount"] ??= fill["value"] ?? fill["cap"];
    return fill;
  };
}

function sentence(words: Words, action: Action, fill: Record<string, ComponentChildren>): ComponentChildren {
  const key = `action.${verbOf(action)}`;
  const known = words.maybe(key) !== null && key !== "action.heading" && key !== "action.value";
  return words.rich(known ? (key as TextKey) : "action.other", fill);
}

function plain(value: unknown): string {
  return JSON.stringify(value, (_, one: unknown) => (typeof one === "bigint" ? one.toString() : one), 1) ?? "";
}

export function ActionList({ actions }: { actions: Action[] }): JSX.Element {
  const words = useWords();
  const { t } = words;
  const fills = useFills();
  if (actions.length === 0) return <p>{t("proposal.noCalls")}</p>;
  return (
    <ol class="actions">
      {actions.map((action, index) => {
        const warn = isUnknown(action) || sendsValue(action) || isPowerful(action);
        const inner = innerOf(action);
        return (
          <li key={index} class={warn ? "action warned" : "action"} data-testid="action-row" data-kind={action.kind}
            data-warn={String(warn)}>
            <p class="action-words">
              {warn && <span class="warn-sign" aria-hidden="true">!!</span>}
              {sentence(words, action, fills(action))}
              {sendsValue(action) && action.kind !== "ether.send" && (
                <strong> {t("action.value", { amount: words.units(action.valueWei, 18, 18) })}</strong>
              )}
            </p>
            {inner.length > 0 && <><p>{t("action.inner")}</p><ActionList actions={inner} /></>}
            <details>
              <summary>{t("proposal.calldata")} · {action.targetName ?? t("action.stranger")}</summary>
              <Facts rows={[
                [t("proposal.target"), <Hash value={action.target} kind="address" whole />],
                ...Object.entries(action.args).map(([name, value]) =>
                  [name, <code class="break">{typeof value === "string" ? value : plain(value)}</code>] as const),
                [t("proposal.calldata"), <code class="break">{action.calldata}</code>],
              ]} />
            </details>
          </li>
        );
      })}
    </ol>
  );
}
