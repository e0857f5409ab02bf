/** Starts the page: reads its settings, then shows them, or says why not. */

import { render } from "preact";

import { loadServices } from "./chain";
import { preferredLanguage, wordsOf } from "./i18n";
import "./styles/main.css";
import { App } from "./views/app";

const place = document.getElementById("app");

async function start(root: HTMLElement): Promise<void> {
  document.documentElement.lang = preferredLanguage();
  try {
    render(<App services={await loadServices()} />, root);
  } catch (error) {
    const { t } = wordsOf(preferredLanguage());
    const why = error instanceof Error ? error.message : String(error);
    render(<main><h1>MarketFlow</h1><p role="alert" data-testid="node-error">{t("app.configMissing", { why })}</p></main>, root);
  }
}

if (place) void start(place);
