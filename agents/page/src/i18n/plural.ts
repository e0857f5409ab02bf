/** A message with the plural categories of its language (`Intl.PluralRules`); `other` always, the rest as it needs. */
export type Plural = { other: string } & Partial<Record<Intl.LDMLPluralRule, string>>;
