select count(*) from mana_ai.view_rebuilds where after_user = %(user)s
