"""Sentences with gaps for private details, as they are written in eleven languages; five have other scripts without spaces or letters of ours.

An empty gap is of the kind it stands under; a named one of that kind. Under "nothing" are gaps for what only looks private.
"""

LOCALES = ("en_US", "de_DE", "fr_FR", "es_ES", "ru_RU", "ar_SA", "hi_IN", "ja_JP", "zh_CN", "ko_KR", "th_TH")

_TUNING = {
    "en_US": {
        "email": ["Write to {} today.", "_{}_", "{}--she answers fast.", "Anna ({}), Bo <{}>"],
        "phone": ["Call me at {}.", "My phone number is {}, after six.", "Tel: {}"],
        "iban": ["Please pay to {} by Friday.", "IBAN: {}."],
        "card": ["My card is {}, valid until 12/27.", "Charge {} please"],
        "ip": ["The server {} is down.", "ssh root@{} fails", "ping {}?"],
        "url": ["Read {}.", "See ({}) or [this]({}), please!"],
        "ssn": ["My SSN is {}.", "It is {}, I think."],
        "secret": ["The key is {}.", "password: {}", "token={secret}"],
        "nothing": ["Order {order} of {date} costs ${price}.", "Version {version} of {time}", "netmask {mask}, latencies {numbers} ms",
                    "ISBN {isbn}, {uuid}, commit {hash}", "It is at {place}, {size}."],
    },
    "de_DE": {
        "email": ["Schreib an {}, bitte.", "Meine {}-Adresse ist neu."],
        "phone": ["Ruf mich an: {}.", "Telefon {}, abends"],
        "iban": ["Überweise auf {} bis Freitag.", "Die IBAN lautet {}."],
        "card": ["Meine Karte {} ist weg.", "Kartennummer: {}"],
        "ip": ["Der Server {} antwortet nicht.", "Adresse {}, Port 80"],
        "url": ["Siehe {}.", "Lies das hier ({})!"],
        "secret": ["Der Schlüssel ist {}.", "Token: {}"],
        "nothing": ["Bestellung {order} vom {date} kostet {price} €.", "Version {version} von {time}", "Maske {mask}, Werte {numbers}",
                    "ISBN {isbn}, {hash}"],
    },
    "fr_FR": {
        "email": ["Écris à {}, s'il te plaît."], "phone": ["Appelle-moi au {}.", "Téléphone : {}"],
        "iban": ["Mon IBAN : {}.", "Virement sur {} demain"], "card": ["Ma carte {} est perdue."], "ip": ["Le serveur {} ne répond pas."],
        "url": ["Voir {}.", "C'est ici : {} !"], "secret": ["La clé est {}."],
        "nothing": ["Commande {order} du {date}, {price} €", "Version {version}", "masque {mask}, {numbers}", "{isbn} et {uuid}"],
    },
    "es_ES": {
        "email": ["Escribe a {}, por favor."], "phone": ["Llámame al {}.", "Teléfono: {}"],
        "iban": ["Mi IBAN es {}."], "card": ["Mi tarjeta {} caduca."], "ip": ["El servidor {} no responde."],
        "url": ["Mira {}.", "¿Has visto {}?"], "secret": ["La clave es {}."],
        "nothing": ["Pedido {order} del {date}, {price} €", "Versión {version}", "máscara {mask}, {numbers}", "{isbn} y {hash}"],
    },
    "ru_RU": {
        "email": ["Пиши на {}, пожалуйста.", "Почта: {}"], "phone": ["Позвони мне: {}.", "Телефон {}, вечером"],
        "iban": ["Мой IBAN {}."], "card": ["Моя карта {} потеряна.", "Номер карты: {}"], "ip": ["Сервер {} не отвечает.", "адрес {}"],
        "url": ["Смотри {}.", "Ссылка: {}, потом нажми"], "secret": ["Ключ: {}.", "пароль {password}"][:1],
        "nothing": ["Заказ {order} от {date} стоит {price} руб.", "Версия {version}", "маска {mask}, значения {numbers}", "{isbn}, {uuid}"],
    },
    "ar_SA": {
        "email": ["راسلني على {} من فضلك", "البريد: {}، شكرا"], "phone": ["اتصل بي على {} مساء", "هاتفي {}"],
        "iban": ["رقم الآيبان {} من فضلك"], "card": ["بطاقتي {} ضاعت"], "ip": ["الخادم {} لا يستجيب", "العنوان {}"],
        "url": ["انظر {}، ثم اضغط", "الرابط: {}"], "secret": ["المفتاح {} سري"],
        "nothing": ["الطلب {order} بتاريخ {date}", "الإصدار {version}", "القناع {mask} والقيم {numbers}", "{isbn} {hash}"],
    },
    "hi_IN": {
        "email": ["कृपया {} पर लिखें।", "ईमेल: {}।"], "phone": ["मुझे {} पर कॉल करें।", "मेरा फ़ोन नंबर {} है।", "मोबाइल: {}"],
        "iban": ["मेरा IBAN {} है।"], "card": ["मेरा कार्ड {} खो गया।"], "ip": ["सर्वर {} बंद है।", "पता {} है"],
        "url": ["यहाँ देखें: {}।", "{} खोलें"], "secret": ["कुंजी {} है।"],
        "nothing": ["ऑर्डर {order} दिनांक {date}", "संस्करण {version}", "मास्क {mask}, मान {numbers}", "{isbn} {uuid}"],
    },
    "ja_JP": {
        "email": ["メールは{}です。", "{}に送ってください"], "phone": ["電話は{}です。", "携帯{}まで", "{}に電話してください"],
        "iban": ["IBANは{}です。", "口座は{}です"], "card": ["カード番号は{}です。", "{}で払います"], "ip": ["サーバー{}が落ちました。", "アドレスは{}です"],
        "url": ["{}を見てください。", "サイト（{}）です", "「{}」を開く"], "secret": ["鍵は{}です。", "パスワードは{}です"],
        "nothing": ["注文{order}は{date}です", "バージョン{version}です", "マスクは{mask}、値は{numbers}です", "{isbn}、{hash}"],
    },
    "zh_CN": {
        "email": ["我的邮箱是{}谢谢", "请发到{}。"], "phone": ["我的手机是{}，谢谢", "电话{}找我", "请拨打{}联系我们"],
        "iban": ["我的账号是{}，请转账", "IBAN{}谢谢"], "card": ["卡号{}已过期", "请用{}付款"], "ip": ["服务器{}的端口", "地址：{}，请连接"],
        "url": ["网址：{}，然后点击确定", "打开{}查看", "（{}）"], "secret": ["密钥{}请保密", "密码是{}谢谢"],
        "nothing": ["订单{order}，日期{date}，价格{price}元", "版本{version}已发布", "掩码{mask}，延迟{numbers}毫秒", "书号{isbn}，{uuid}"],
    },
    "ko_KR": {
        "email": ["이메일은 {}입니다.", "{}로 보내세요"], "phone": ["전화번호는 {}입니다.", "{}로 전화하세요", "연락처 {}예요"],
        "iban": ["IBAN은 {}입니다."], "card": ["카드 {}입니다", "카드번호는 {}예요"], "ip": ["서버 {}에 접속하세요", "주소는 {}입니다"],
        "url": ["{}을 보세요", "링크: {}에서 확인"], "secret": ["키는 {}입니다", "비밀번호는 {}이에요"],
        "nothing": ["주문번호 {order}, {date}", "버전 {version}입니다", "마스크 {mask}이고 값은 {numbers}입니다", "{isbn}, {hash}"],
    },
    "th_TH": {
        "email": ["อีเมล{}ครับ", "ส่งมาที่{}นะ"], "phone": ["โทร{}ครับ", "เบอร์ของฉันคือ {} ค่ะ"],
        "iban": ["บัญชี{}ครับ"], "card": ["บัตร{}หาย", "หมายเลขบัตร {} ครับ"], "ip": ["เซิร์ฟเวอร์{}ล่ม", "ที่อยู่ {} ครับ"],
        "url": ["ดูที่{}นะครับ", "ลิงก์ {} ครับ"], "secret": ["คีย์{}ห้ามบอก"],
        "nothing": ["คำสั่งซื้อ{order}วันที่{date}", "เวอร์ชัน{version}", "มาสก์{mask}ค่า{numbers}", "{isbn} {uuid}"],
    },
}  # fmt: skip

SENTENCES = {"tuning": _TUNING}
