"""Plain pages: Checkout, the customer portal, hosted invoices and the index. They work without JavaScript."""
