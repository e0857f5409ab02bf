"""ape run sign: a ballot, signed for somebody else to submit; or the document for a wallet that signs elsewhere."""

from agents.commands.sign import cli as cli
