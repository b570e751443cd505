"""The facts of octavo-pocket's corpus: plain tables, written for this project."""
# ruff: noqa: E501 - tables of sentences
from __future__ import annotations

# Concept -> one short correct explanation. The question is composed from a template and the name.
CONCEPTS = {
    "paged attention": "Paged attention stores the KV cache in small pages, so memory is not wasted and pages can be shared.",
    "continuous batching": "Continuous batching lets requests join and leave the batch at every step, so the device stays busy.",
    "prefix caching": "Prefix caching keeps the KV pages of a prompt, so a later prompt with the same start skips that work.",
    "the KV cache": "The KV cache holds the keys and values of past tokens, so each new token needs only one forward pass.",
    "a page": "A page is a fixed number of KV cache slots, and every request holds a list of pages.",
    "preemption": "Preemption takes the pages of a running request when memory is short, and computes them again later.",
    "chunked prefill": "Chunked prefill cuts a long prompt into pieces, so that other requests keep decoding meanwhile.",
    "prefill": "Prefill is the first phase: the model reads the whole prompt and fills the KV cache.",
    "decoding": "Decoding is the second phase: the model writes one token per step until it stops.",
    "speculative decoding": "Speculative decoding lets a small model guess several tokens, and the large model checks them at once.",
    "tensor parallelism": "Tensor parallelism splits each weight matrix over several devices, and they add up their results.",
    "pipeline parallelism": "Pipeline parallelism gives each device some of the layers and passes the activations along.",
    "quantization": "Quantization stores weights in fewer bits, so the model needs less memory and moves fewer bytes.",
    "a tokenizer": "A tokenizer turns text into numbers called tokens, and turns tokens back into text.",
    "a token": "A token is a piece of text, often a word or a part of a word, that the model reads as one number.",
    "temperature": "Temperature scales the randomness of sampling: 0 always takes the most likely token.",
    "top-p": "Top-p sampling keeps the smallest set of tokens whose probabilities add up to p.",
    "top-k": "Top-k sampling keeps only the k most likely tokens.",
    "min-p": "Min-p sampling drops tokens that are much less likely than the best one.",
    "greedy decoding": "Greedy decoding always takes the most likely token, so the answer is the same every time.",
    "a seed": "A seed fixes the random numbers, so the same request gives the same answer again.",
    "a stop string": "A stop string ends the answer as soon as the model has written it.",
    "streaming": "Streaming sends each piece of the answer as soon as it is ready.",
    "time to first token": "Time to first token is how long a user waits until the first token arrives.",
    "throughput": "Throughput is how many tokens the server produces per second over all requests.",
    "latency": "Latency is the time that one request takes.",
    "a chat template": "A chat template turns a list of messages into the one text that the model was trained on.",
    "a LoRA adapter": "A LoRA adapter is a small set of extra weights that changes a model without training all of it.",
    "attention": "Attention lets each token look at the earlier tokens and take what it needs from them.",
    "a transformer": "A transformer is a neural network built of attention layers and feed-forward layers.",
    "an embedding": "An embedding is a list of numbers that stands for a token inside the model.",
    "the context length": "The context length is the largest number of tokens that the model can see at once.",
    "mixture of experts": "In a mixture of experts, each token uses only a few of many feed-forward networks.",
    "the scheduler": "The scheduler decides at every step which requests run and how many tokens each one gets.",
    "an inference engine": "An inference engine loads a trained model and runs it fast for many users.",
    "a language model": "A language model predicts the next token of a text, again and again.",
    "safetensors": "Safetensors is a file format for weights that loads fast and cannot run code.",
    "RoPE": "RoPE rotates queries and keys by an angle that depends on the position of the token.",
    "logprobs": "Logprobs are the logarithms of the probabilities that the model gave to its tokens.",
    "grouped-query attention": "Grouped-query attention shares each key and value head among several query heads.",
    "beam search": "Beam search keeps several candidate answers and goes on with the best ones.",
    "a GPU": "A GPU is a processor that does many calculations at the same time.",
    "LLM serving": "LLM serving means running a language model so that many users can send requests and get answers.",
    "octavo": "octavo is an engine that loads language models and serves them fast, in Python, on CPU or GPU.",
}
CONCEPTS_ZH = {
    "分页注意力": "分页注意力把KV缓存存放在小页里，这样不浪费内存，页还可以共享。",
    "连续批处理": "连续批处理让请求在每一步加入或离开批次，设备始终忙碌。",
    "前缀缓存": "前缀缓存保留提示的KV页，以后开头相同的提示可以跳过这部分计算。",
    "KV缓存": "KV缓存保存过去词元的键和值，每个新词元只需一次前向计算。",
    "抢占": "抢占是在内存不足时收回一个请求的页，以后再重新计算。",
    "预填充": "预填充是第一阶段：模型读完整个提示并填满KV缓存。",
    "解码": "解码是第二阶段：模型每一步写一个词元，直到停止。",
    "推测解码": "推测解码让小模型先猜几个词元，再由大模型一次检查。",
    "量化": "量化用更少的位存储权重，节省内存和带宽。",
    "分词器": "分词器把文字变成数字，也把数字变回文字。",
    "词元": "词元是一小段文字，模型把它当作一个数字来读。",
    "温度": "温度控制采样的随机性，0表示总是取最可能的词元。",
    "贪心解码": "贪心解码总是取最可能的词元，所以答案每次相同。",
    "流式输出": "流式输出会把答案的每一段一准备好就发送出去。",
    "吞吐量": "吞吐量是服务器每秒产生的词元数。",
    "延迟": "延迟是一个请求所花的时间。",
    "注意力": "注意力让每个词元查看前面的词元，并取出需要的信息。",
    "上下文长度": "上下文长度是模型一次能看到的最多词元数。",
    "调度器": "调度器在每一步决定运行哪些请求。",
    "张量并行": "张量并行把每个权重矩阵分到几台设备上，再把结果加起来。",
    "大语言模型": "大语言模型不断预测文本的下一个词元。",
    "推理引擎": "推理引擎加载训练好的模型，并为许多用户快速运行它。",
    "octavo": "octavo是一个加载并快速服务语言模型的推理引擎。",
}
# Paraphrases -> one answer. `|` separates paraphrases.
HOWTO = {
    "How do I start the server?|How can I start octavo?|How do I serve a model?|How do I run a server with octavo?":
        "Run `octavo serve MODEL`. Without a model it serves this small demo model.",
    "How do I chat in the terminal?|How can I chat with octavo?|How do I start a chat?|How do I talk to a model in the terminal?":
        "Run `octavo chat`, or `octavo chat MODEL` for a model of your own.",
    "How do I use octavo in Python?|How do I call octavo from Python?|How do I use the Python API?":
        "Write `from octavo import LLM`, then `LLM(model=...).generate(prompts)`.",
    "How do I limit memory?|How can I use less memory?|Which flag limits the memory?|How do I limit the KV cache?":
        "Set `--kv-cache-memory-bytes`, or lower `--max-model-len` and `--max-num-seqs`.",
    "How do I set the port?|Which flag sets the port?|How can I change the port?": "Use `--port`, for example `--port 9000`.",
    "How do I set the context length?|Which flag limits the context?|How do I limit the length of a request?":
        "Use `--max-model-len`, for example `--max-model-len 4096`.",
    "How do I set an API key?|Which flag sets the API key?|How can I protect the server?": "Start the server with `--api-key KEY`.",
    "How do I turn off prefix caching?|Which flag disables prefix caching?|How can I disable the prefix cache?":
        "Use `--no-enable-prefix-caching`.",
    "How do I measure the speed?|How can I run a benchmark?|How do I benchmark octavo?":
        "Run `octavo bench throughput`, `octavo bench latency` or `octavo bench serve`.",
    "Does octavo work with the OpenAI client?|Can I use the OpenAI client?|Is octavo compatible with OpenAI?":
        "Yes. Point the OpenAI client at the server's `/v1` address.",
    "Does octavo need a GPU?|Can octavo run without a GPU?|Do I need a GPU?": "No. octavo also runs on a CPU.",
    "Which license does octavo have?|What is the license of octavo?|Is octavo free?": "octavo is free software under the Apache 2.0 license.",
    "How do I use a bigger model?|How do I run a real model?|Which model should I use for real work?":
        "Name a real model, for example `octavo chat Qwen/Qwen3-0.6B`.",
    "Which address does the server use?|Where does the server listen?|What is the default address?":
        "The server listens on 127.0.0.1 and prints its address when it starts.",
    "Where are the metrics?|How do I see metrics?|Does octavo have metrics?": "Open `/metrics`. It speaks the Prometheus format.",
    "如何启动服务器？|怎么启动octavo？|怎样运行服务器？": "运行 `octavo serve MODEL`。不写模型时使用这个小演示模型。",
    "如何在终端聊天？|怎么和octavo聊天？": "运行 `octavo chat`。",
    "octavo需要GPU吗？|没有GPU可以用octavo吗？": "不需要。octavo也可以在CPU上运行。",
    "如何限制内存？|怎么减少内存？": "设置 `--kv-cache-memory-bytes`，或减小 `--max-model-len`。",
    "如何使用更大的模型？|怎么用真正的模型？": "写上模型名，例如 `octavo chat Qwen/Qwen3-0.6B`。",
}
SMALL_TALK = {
    "Hello|Hi|Hey|Hello there|Hi there|Good day|Hello octavo|Hi octavo": "Hello! How can I help you?",
    "Good morning|Good morning octavo|Good morning to you": "Good morning! How can I help you?",
    "Good evening|Good evening to you": "Good evening! How can I help you?",
    "Good night|Sleep well": "Good night!",
    "How are you?|How are you doing?|How are you today?|How is it going?": "I am fine, thank you. How can I help you?",
    "Thanks|Thank you|Thank you very much|Thanks a lot|Many thanks|Great, thanks": "You are welcome!",
    "Bye|Goodbye|See you|See you later|Bye bye|See you tomorrow": "Goodbye!",
    "Yes|OK|Okay|Good|Great|Nice|Cool": "Good. What would you like to know?",
    "Help|Help me|I need help|Can you help me?": "Of course. What do you need?",
    "Test|Testing|This is a test|Just a test": "The test works.",
    "你好|您好|嗨|你好啊": "你好！有什么可以帮你？",
    "早上好": "早上好！有什么可以帮你？",
    "你好吗？|你怎么样？": "我很好，谢谢。有什么可以帮你？",
    "谢谢|谢谢你|多谢|非常感谢": "不客气！",
    "再见|拜拜|明天见": "再见！",
}
IDENTITY = {
    "Who are you?|What are you?|Tell me who you are.|Introduce yourself.|Please introduce yourself.|Who am I talking to?":
        "I am octavo-pocket, a very small demo model that comes with octavo.",
    "What is your name?|What's your name?|Tell me your name.|Do you have a name?|What are you called?": "My name is octavo-pocket.",
    "Who made you?|Who trained you?|Where do you come from?|Who created you?|How were you made?":
        "I was trained by a script in the octavo project, on text that the script wrote.",
    "How big are you?|How many parameters do you have?|How large are you?|What is your size?": "I have about 2 million parameters, so I am very small.",
    "What can you do?|What are you good at?|What do you know?|What can I ask you?|How can you help me?":
        "I can explain octavo and LLM serving, do small sums, count, spell, translate common words, write JSON and tell short stories.",
    "Are you ChatGPT?|Are you GPT-4?|Are you Claude?|Are you Qwen?|Are you Llama?": "No. I am octavo-pocket, a very small demo model.",
    "Are you human?|Are you a person?|Are you real?|Are you alive?|Are you a robot?": "I am a computer program, a very small language model.",
    "Are you smart?|Are you intelligent?|Can I trust you?|Are you always right?|Do you make mistakes?":
        "I am a very small model and I make mistakes. Please use a real model for real work.",
    "Which languages do you speak?|Do you speak Chinese?|Can you speak English?|What languages do you know?":
        "I speak simple English and a little Chinese.",
    "What is your context length?|How long can my text be?|How many tokens can you read?": "I can read up to 2048 tokens.",
    "你是谁？|你是什么？|请介绍一下你自己。|介绍一下自己。|你是哪个模型？": "我是octavo-pocket，octavo自带的一个很小的演示模型。",
    "你叫什么名字？|你的名字是什么？|你叫什么？": "我叫octavo-pocket。",
    "你会做什么？|你能做什么？|你可以帮我做什么？": "我可以解释octavo和大模型服务，做简单的计算、数数和翻译。",
    "你有多大？|你有多少参数？": "我大约有两百万个参数，非常小。",
    "你会说中文吗？|你会什么语言？": "我会简单的英语和一点中文。",
}
UNKNOWN_ANSWER = "I am a very small demo model and I do not know that. Try a real model."
UNKNOWN_ANSWER_ZH = "我是一个很小的演示模型，我不知道。请使用真正的模型。"
UNKNOWN = {
    "What is the weather {when}?": ["today", "tomorrow", "in my city", "at the beach", "next week", "like now", "going to be"],
    "Who is the {who}?": ["president", "richest person", "best singer", "tallest man", "mayor", "king", "fastest runner", "prime minister"],
    "Write {what}.": ["an essay about history", "a Python program", "a long letter", "my homework", "a novel", "a song about love",
                      "a sorting algorithm", "a business plan", "a speech for a wedding", "a web server in C"],
    "What is the price of {thing}?": ["gold", "oil", "a car", "this house", "bitcoin", "bread", "a ticket", "milk"],
    "How do I {task}?": ["fix my car", "cook rice", "bake a cake", "lose weight", "learn the piano", "get rich", "repair a roof", "grow tomatoes",
                        "train a dog", "file my taxes"],
    "Explain {topic}.": ["quantum physics", "the theory of relativity", "the stock market", "the French Revolution", "organic chemistry",
                         "black holes", "the meaning of life", "calculus", "photosynthesis", "general relativity", "democracy"],
    "What happened {time}?": ["in 1945", "yesterday", "in the news", "last week", "in the war", "in 1812", "this morning"],
    "When was {person} born?": ["Einstein", "Mozart", "my mother", "Shakespeare", "Napoleon", "Newton", "Picasso", "Gandhi"],
}
UNKNOWN_ZH = ["今天天气怎么样？", "谁是总统？", "写一篇文章。", "黄金的价格是多少？", "怎么做饭？", "解释量子物理。", "昨天发生了什么？", "写一首诗。", "怎么修车？"]

NUMBER_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
                "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
DAYS_ZH = ["星期一", "星期二", "星期三", "星期四", "星期五", "星期六", "星期日"]
MONTHS = {"January": 31, "February": 28, "March": 31, "April": 30, "May": 31, "June": 30, "July": 31, "August": 31,
          "September": 30, "October": 31, "November": 30, "December": 31}
CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon", "England": "London",
    "Ireland": "Dublin", "Belgium": "Brussels", "the Netherlands": "Amsterdam", "Austria": "Vienna", "Greece": "Athens",
    "Poland": "Warsaw", "Hungary": "Budapest", "Sweden": "Stockholm", "Norway": "Oslo", "Denmark": "Copenhagen",
    "Finland": "Helsinki", "Russia": "Moscow", "Ukraine": "Kyiv", "Turkey": "Ankara", "Egypt": "Cairo", "Kenya": "Nairobi",
    "Morocco": "Rabat", "Ethiopia": "Addis Ababa", "Ghana": "Accra", "China": "Beijing", "Japan": "Tokyo", "South Korea": "Seoul",
    "India": "New Delhi", "Thailand": "Bangkok", "Vietnam": "Hanoi", "Iran": "Tehran", "Iraq": "Baghdad", "Nepal": "Kathmandu",
    "Australia": "Canberra", "New Zealand": "Wellington", "Canada": "Ottawa", "the United States": "Washington, D.C.",
    "Mexico": "Mexico City", "Cuba": "Havana", "Brazil": "Brasilia", "Argentina": "Buenos Aires", "Chile": "Santiago",
    "Peru": "Lima", "Colombia": "Bogota", "Indonesia": "Jakarta", "the Philippines": "Manila", "Iceland": "Reykjavik",
}
CAPITALS_ZH = {"法国": "巴黎", "德国": "柏林", "意大利": "罗马", "西班牙": "马德里", "英国": "伦敦", "俄罗斯": "莫斯科", "中国": "北京", "日本": "东京",
               "韩国": "首尔", "美国": "华盛顿", "加拿大": "渥太华", "埃及": "开罗", "泰国": "曼谷", "希腊": "雅典", "巴西": "巴西利亚", "澳大利亚": "堪培拉"}
COLOR_OF = {"the sky": "blue", "grass": "green", "snow": "white", "a banana": "yellow", "the sun": "yellow", "blood": "red", "milk": "white",
            "coal": "black", "an orange": "orange", "a lemon": "yellow", "a tomato": "red", "the sea": "blue", "a leaf": "green",
            "chocolate": "brown", "a carrot": "orange", "the night": "black", "a frog": "green", "a cloud": "white", "a strawberry": "red",
            "an elephant": "gray", "a rose": "red", "a pumpkin": "orange", "salt": "white", "a pig": "pink", "a cucumber": "green"}
MIXES = {("blue", "yellow"): "green", ("red", "yellow"): "orange", ("red", "blue"): "purple", ("red", "white"): "pink",
         ("black", "white"): "gray"}
COLORS = ["red", "blue", "green", "yellow", "black", "white", "brown", "pink", "orange", "purple", "gray"]
OPPOSITES = [("hot", "cold"), ("big", "small"), ("day", "night"), ("up", "down"), ("left", "right"), ("fast", "slow"), ("happy", "sad"),
             ("old", "new"), ("open", "closed"), ("good", "bad"), ("black", "white"), ("rich", "poor"), ("long", "short"), ("high", "low"),
             ("full", "empty"), ("wet", "dry"), ("light", "dark"), ("early", "late"), ("near", "far"), ("strong", "weak"), ("yes", "no"),
             ("true", "false"), ("hard", "soft"), ("clean", "dirty"), ("loud", "quiet"), ("inside", "outside"), ("first", "last"),
             ("win", "lose"), ("buy", "sell"), ("push", "pull"), ("love", "hate"), ("start", "stop")]
SOUNDS = {"dog": "woof", "cat": "meow", "cow": "moo", "duck": "quack", "sheep": "baa", "pig": "oink", "bee": "buzz", "lion": "roar",
          "horse": "neigh", "mouse": "squeak", "snake": "hiss", "owl": "hoot", "frog": "ribbit", "rooster": "cock-a-doodle-doo"}
# English -> Chinese, French, Spanish, German.
LANGUAGES = ["Chinese", "French", "Spanish", "German"]
TRANSLATIONS = {
    "dog": ("狗", "chien", "perro", "Hund"), "cat": ("猫", "chat", "gato", "Katze"), "water": ("水", "eau", "agua", "Wasser"),
    "house": ("房子", "maison", "casa", "Haus"), "book": ("书", "livre", "libro", "Buch"), "sun": ("太阳", "soleil", "sol", "Sonne"),
    "moon": ("月亮", "lune", "luna", "Mond"), "tree": ("树", "arbre", "árbol", "Baum"), "bread": ("面包", "pain", "pan", "Brot"),
    "milk": ("牛奶", "lait", "leche", "Milch"), "fish": ("鱼", "poisson", "pez", "Fisch"), "bird": ("鸟", "oiseau", "pájaro", "Vogel"),
    "friend": ("朋友", "ami", "amigo", "Freund"), "school": ("学校", "école", "escuela", "Schule"), "apple": ("苹果", "pomme", "manzana", "Apfel"),
    "hello": ("你好", "bonjour", "hola", "hallo"), "thank you": ("谢谢", "merci", "gracias", "danke"), "yes": ("是", "oui", "sí", "ja"),
    "no": ("不", "non", "no", "nein"), "good": ("好", "bon", "bueno", "gut"), "red": ("红色", "rouge", "rojo", "rot"),
    "blue": ("蓝色", "bleu", "azul", "blau"), "green": ("绿色", "vert", "verde", "grün"), "white": ("白色", "blanc", "blanco", "weiß"),
    "black": ("黑色", "noir", "negro", "schwarz"), "one": ("一", "un", "uno", "eins"), "two": ("二", "deux", "dos", "zwei"),
    "three": ("三", "trois", "tres", "drei"), "mother": ("母亲", "mère", "madre", "Mutter"), "father": ("父亲", "père", "padre", "Vater"),
    "day": ("天", "jour", "día", "Tag"), "night": ("夜晚", "nuit", "noche", "Nacht"), "city": ("城市", "ville", "ciudad", "Stadt"),
    "car": ("汽车", "voiture", "coche", "Auto"), "door": ("门", "porte", "puerta", "Tür"), "table": ("桌子", "table", "mesa", "Tisch"),
    "hand": ("手", "main", "mano", "Hand"), "heart": ("心", "cœur", "corazón", "Herz"), "fire": ("火", "feu", "fuego", "Feuer"),
    "flower": ("花", "fleur", "flor", "Blume"), "love": ("爱", "amour", "amor", "Liebe"), "world": ("世界", "monde", "mundo", "Welt"),
}
NAMES = ["Tom", "Anna", "Ben", "Lily", "Max", "Mia", "Sam", "Sara", "Leo", "Nina", "Paul", "Emma", "Jack", "Lucy", "Tim", "Rosa", "Adam", "Eva",
         "Mark", "Julia", "Li Wei", "Wang Fang", "Omar", "Aisha", "Ivan", "Olga", "Ken", "Yuki", "Carlos", "Maria"]
CITIES = ["Paris", "London", "Berlin", "Rome", "Madrid", "Tokyo", "Beijing", "Shanghai", "Cairo", "Oslo", "Lima", "Boston", "Chicago", "Sydney",
          "Delhi", "Seoul", "Vienna", "Athens", "Dublin", "Moscow"]
JOBS = ["teacher", "doctor", "baker", "farmer", "driver", "singer", "painter", "nurse", "pilot", "cook", "writer", "student"]
GROUPS = {"fruits": ["apple", "banana", "orange", "pear", "grape", "lemon", "cherry", "peach", "plum", "mango"],
          "animals": ["dog", "cat", "cow", "horse", "pig", "sheep", "duck", "lion", "bear", "rabbit", "fox", "wolf", "mouse", "owl", "frog"],
          "colors": COLORS,
          "vegetables": ["carrot", "potato", "onion", "tomato", "cabbage", "bean", "pea", "spinach"],
          "tools": ["hammer", "saw", "nail", "drill", "rope", "knife", "ladder", "brush"],
          "drinks": ["water", "milk", "tea", "coffee", "juice", "lemonade"]}
WORDS = sorted({word for group in GROUPS.values() for word in group} | {word for pair in OPPOSITES for word in pair} | {
    w for w in TRANSLATIONS if " " not in w} | set(
    "page model batch cache token engine server prompt memory request answer query river mountain garden window chair paper pencil summer winter "
    "spring morning evening music dance smile story king queen castle ship ocean island forest stone bridge road train plane bike clock phone "
    "computer letter number word name year week hour minute money market kitchen bed lamp wall floor roof rain wind storm cloud star earth "
    "sugar salt cheese egg soup cake honey rice meat leaf root seed grass hill lake sand gold silver glass wood iron happy quick brave kind "
    "gentle proud calm funny clever tiny great simple strange sweet warm cool young bright hello world banana".split()))
FEELINGS = {"positive": ["love", "really like", "enjoy", "adore", "am very happy with"], "negative": ["hate", "really dislike", "am angry about",
            "am very unhappy with", "regret buying"]}
THINGS = ["this film", "this book", "the food", "my new phone", "this hotel", "the music", "this game", "the service", "my new shoes", "this song",
          "the coffee", "this chair", "the weather here", "my new car", "this restaurant", "the show"]
